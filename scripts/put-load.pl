#!/usr/bin/env perl
# usage: put-load.pl PORT COUNT BYTES [WRITERS]
#
# Writes COUNT artifacts of BYTES random bytes to the node on a port of this machine, over kept-alive connections, and
# stops at the first answer that is not 200. With PRINT_ENDS each writer prints when it had its last answer. Needs only
# the perl that is part of every Debian.
use strict;
use warnings;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time);

my ($port, $count, $bytes, $writers) = @ARGV;
die "usage: put-load.pl PORT COUNT BYTES [WRITERS]\n" unless $bytes;
$writers ||= 8;
open my $random, '<:raw', '/dev/urandom' or die "/dev/urandom: $!\n";

sub write_share {
    my ($share) = @_;
    my $node = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port) or die "port $port: $!\n";
    # Head and body are two writes; the second would wait for the first one's late acknowledgement.
    setsockopt $node, IPPROTO_TCP, TCP_NODELAY, 1 or die "TCP_NODELAY: $!\n";
    for (my $number = $share; $number < $count; $number += $writers) {
        my $left = $bytes;
        printf $node "PUT /api/metro/cache/%08x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n", $number, $bytes;
        while ($left > 0) {
            my $got = sysread $random, my $chunk, $left < 1 << 20 ? $left : 1 << 20 or die "/dev/urandom: $!\n";
            print $node $chunk;
            $left -= $got;
        }
        $node->flush;
        my $status = <$node> // die "the node closed the connection\n";
        die "artifact $number: $status" unless $status =~ m{^HTTP/1\.1 200 };
        my $length = 0;
        while (my $line = <$node>) {
            last if $line eq "\r\n";
            $length = $1 if $line =~ /^content-length: (\d+)/i;
        }
        read $node, my $body, $length if $length;
    }
}

my @children = map {
    my $share = $_;
    my $child = fork // die "fork: $!\n";
    if (!$child) {
        write_share($share);
        printf "%.6f\n", time if $ENV{PRINT_ENDS};
        exit 0;
    }
    $child;
} 0 .. $writers - 1;
my $failed = 0;
for my $child (@children) { waitpid $child, 0; $failed ||= $? }
exit($failed ? 1 : 0);
