#!/usr/bin/perl
# Leaves files in the staging areas of a tmp dir as a node of the seed era did: named, unlocked, in no order; a third of
# them parts of uploads, a hundred to a folder.
# usage: leak-staging.pl TMP_DIR COUNT BYTES
use strict;
use warnings;

my ($tmp, $count, $bytes) = @ARGV;
my $body = "\x5a" x $bytes;
srand 1;
mkdir $_ for $tmp, map { "$tmp/$_" } qw(uploads parts bootstrap);
my $folder = '';
for my $number (0 .. $count - 1) {
  my $name = sprintf '%08x-%08x-%06x', rand 1 << 32, rand 1 << 32, $number;
  my $path = ("$tmp/uploads/upload-$name", "$tmp/parts/", "$tmp/bootstrap/bootstrap-$name")[$number % 3];
  if ($number % 3 == 1) {
    if ($number % 300 == 1) {
      $folder = "$tmp/parts/$name";
      mkdir $folder or die "$folder: $!";
    }
    $path = sprintf '%s/%d', $folder, ($number % 300) / 3 + 1;
  }
  open my $file, '>', $path or die "$path: $!";
  syswrite($file, $body) == $bytes or die "$path: $!";
  close $file or die "$path: $!";
}
