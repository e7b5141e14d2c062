#!/usr/bin/env perl
# usage: burst.pl WRITER_PORT SIBLING_INTERNAL_PORT COUNT BYTES
#
# Writes a burst on one node and prints two times in seconds: that of the writing, and that from the last answer until the
# sibling counts all of it. It is asked each millisecond from the first write on, over one kept-alive connection, because
# starting a client, or ending the load, takes longer than what is to be measured.
use strict;
use warnings;
use FindBin;
use IO::Socket::INET;
use Socket qw(IPPROTO_TCP TCP_NODELAY);
use Time::HiRes qw(time sleep);

my ($writer, $sibling, $count, $bytes) = @ARGV;
die "usage: burst.pl WRITER_PORT SIBLING_INTERNAL_PORT COUNT BYTES\n" unless $bytes;
my $node = IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $sibling) or die "port $sibling: $!\n";
setsockopt $node, IPPROTO_TCP, TCP_NODELAY, 1 or die "TCP_NODELAY: $!\n";

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

held() == 0 or die "the sibling is not empty\n";
my $began = time;
$ENV{PRINT_ENDS} = 1;
open my $load, '-|', "$FindBin::Bin/put-load.pl", $writer, $count, $bytes or die "put-load.pl: $!\n";
sleep 0.001 until held() >= $count;
my $arrived = time;
# The last answer of each writer.
my ($written) = sort { $b <=> $a } <$load>;
close $load or die "the writing failed\n";
printf "%.4f %.4f\n", $written - $began, $arrived - $written;
