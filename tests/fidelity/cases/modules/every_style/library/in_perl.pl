#!/usr/bin/perl
# WANT_JSON
open(my $file, "<", $ARGV[0]);
my $text = do { local $/; <$file> };
$text =~ /"text": "(\w+)"/;
print "{\"changed\": false, \"style\": \"perl\", \"text\": \"$1\"}\n";
