#!/usr/bin/env perl
# usage: burst.pl WRITER_PORT SIBLING_INTERNAL_PORT COUNT BYTES
#
# Writes a burst on one node and prints two times in seconds: that of the writing, and that from its end until the sibling
# counts all of it. It asks over one kept-alive connection, because starting a client takes longer than the answer.
use strict;
use warnings;
use FindBin;
use IO::Socket::INET;
use Time::HiRes qw(time);

my ($writer, $sibling, $count, $bytes) = @ARGV;
die "usage: burst.pl WRITER_PORT SIBLING_INTERNAL_PORT COUNT BYTES\n" unless $bytes;
my $node = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sibling) or die "port $sibling: $!\n";

sub held {
    print $node "GET /_internal/status HTTP/1.1\r\nHost: localhost\r\n\r\n";
    $node->flush;
    my ($length, $line) = (0, undef);
    while (defined($line = <$node>)) {
        last if $line eq "\r\n";
        $length = $1 if $line =~ /^content-length: (\d+)/i;
    }
    my $body;
    read $node, $body, $length;
    $body =~ /"artifacts":(\d+)/ or die "no count in $body\n";
    return $1;
}

held();
my $began = time;
system("$FindBin::Bin/put-load.pl", $writer, $count, $bytes) == 0 or die "the writing failed\n";
my $written = time;
1 until held() >= $count;
printf "%.4f %.4f\n", $written - $began, time - $written;
