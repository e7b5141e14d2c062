#!/usr/bin/env perl
# usage: holdings.pl URL      (the URL by which peers reach a node)
#
# Prints what a node holds: one line of producer, namespace, key, version and digest for each artifact, sorted. Two
# nodes hold the same exactly if their lines are the same. It reads the node's change log as a sibling does (frames as in
# src/core/mesh/feed_frames.rs, records as in src/core/store/record_codec.rs), and needs only curl and the perl that is
# part of every Debian: the demo must not wait for another program to be compiled.
use strict;
use warnings;

my $url = shift or die "usage: holdings.pl URL\n";
my (@records, %deleted);
my ($after, $head) = (0, 1);
while ($after < $head) {
    my $path = "/_internal/feed?order=seq&after=$after&max_rows=1000&max_bytes=4194304&inline_up_to=0&wait_ms=0";
    my $page = do {
        open my $answer, '-|:raw', 'curl', '-sf', "$url$path" or die "curl: $!\n";
        local $/;
        my $bytes = <$answer>;
        close $answer or die "no answer from $url$path\n";
        $bytes;
    };
    my $header = '';
    while (length $page) {
        my ($type, $payload) = unpack 'x4 C x a*', substr $page, 0, 4 + unpack('V', $page), '';
        if    ($type == 1) { $header = $payload }
        elsif ($type == 2) { push @records, fields(unpack 'V/a', $payload) }
        elsif ($type == 3) { my (undef, $version, $namespace) = unpack 'Q< Q< a*', $payload; $deleted{$namespace} = $version }
    }
    ($head) = $header =~ /"head_seq":(\d+)/ or die "no header from $url$path\n";
    my ($next) = $header =~ /"next":(\d+)/;
    last if $next <= $after;
    $after = $next;
}

# Rows of a deleted namespace may wait for being purged.
@records = grep { $_->{version} > ($deleted{ $_->{namespace} } // -1) } @records;
print sort map { "$_->{producer} $_->{namespace} $_->{key} $_->{version}.$_->{logical} $_->{digest}\n" } @records;

# The fields of a record that name it: tag, length and content in turn behind the version byte, both numbers as varints.
sub fields {
    my $bytes = substr shift, 1;
    my %content;
    while (length $bytes) {
        my ($tag, $length) = (varint(\$bytes), varint(\$bytes));
        $content{$tag} = substr $bytes, 0, $length, '';
    }
    my $number = sub { defined $content{ $_[0] } ? varint(\$content{ $_[0] }) : 0 };
    return {
        producer => $content{3} // '', namespace => $content{4} // '', key => $content{5} // '',
        version => $number->(13), logical => $number->(14), digest => unpack('H*', substr $content{11} // '', 1),
    };
}

sub varint {
    my $bytes = shift;
    my ($number, $shift) = (0, 0);
    while (1) {
        my $byte = ord substr $$bytes, 0, 1, '';
        $number |= ($byte & 127) << $shift;
        return $number if $byte < 128;
        $shift += 7;
    }
}
