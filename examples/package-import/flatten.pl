#!/usr/bin/perl
# Prints JSON as lines "NUMBER<tab>path<tab>value", where NUMBER counts the documents: {"a": [{"b": 1}]} gives
# "1<tab>a.0.b<tab>1". For shell scripts on machines that have perl-base and nothing else.
use strict;
use warnings;

my $text = do { local $/; <STDIN> };
my $document = 0;
while ($text =~ /\G\s*(?=\S)/gc) { $document++; value(''); }

sub value {
    my ($path) = @_;
    if ($text =~ /\G\s*\{/gc) { members($path, '}', sub { my $key = string(); expect(qr/:/); $key }) }
    elsif ($text =~ /\G\s*\[/gc) { my $i = 0; members($path, ']', sub { $i++ }) }
    elsif ($text =~ /\G\s*(?=")/gc) { show($path, string()) }
    elsif ($text =~ /\G\s*([-+.\w]+)/gc) { show($path, $1) }
    else { bad() }
}

sub members {
    my ($path, $end, $key) = @_;
    return if $text =~ /\G\s*\Q$end\E/gc;
    while (1) {
        my $name = $key->();
        value($path eq '' ? $name : "$path.$name");
        next if $text =~ /\G\s*,/gc;
        expect(qr/\Q$end\E/);
        return;
    }
}

sub string {
    $text =~ /\G\s*"((?:[^"\\]|\\.)*)"/gcs or bad();
    my $string = $1;
    $string =~ s/\\(["\\\/])/$1/g;
    return $string;
}

sub expect { my ($what) = @_; $text =~ /\G\s*$what/gc or bad() }

sub show { my ($path, $value) = @_; $value =~ tr/\t\n/  /; print "$document\t$path\t$value\n" }

sub bad { die "not JSON at character " . (pos($text) || 0) . "\n" }
