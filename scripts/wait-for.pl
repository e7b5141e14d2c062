#!/usr/bin/env perl
# usage: wait-for.pl PORT PATH TEXT SECONDS
#
# Asks until an answer has the text in it; ends with 1 if none had within so many seconds. One process asks each 10 ms:
# starting a client for each question takes a quarter of these processors from what is measured.
use strict;
use warnings;
use IO::Socket::INET;
use Time::HiRes qw(time sleep);

my ($port, $path, $text, $seconds) = @ARGV;
die "usage: wait-for.pl PORT PATH TEXT SECONDS\n" unless $seconds;

sub answer {
    my $node = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 1) or return '';
    print $node "GET $path HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    $node->flush;
    local $/;
    return <$node> // '';
}

my $deadline = time + $seconds;
until (index(answer(), $text) >= 0) {
    exit 1 if time > $deadline;
    sleep 0.01;
}
