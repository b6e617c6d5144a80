# A child that misuses what it is given: `perl misuse.pl FILE HOW...`. Its first
# run writes down what it was given, misuses it and fails. Later runs write
# it down too, and then work as their links and sockets require.
use strict;
use warnings;
use Fcntl;
use Socket;
use POSIX ();

my ($file, @how) = @ARGV;
my $first = !-e "$file.1";
my %fds;
for my $n (0 .. 40) {
    my $fd;
    $fds{$n} = $fd if open($fd, '<&=', $n);
}

# Number, flags, what the pipe can hold, offset.
sub given {
    my @lines;
    for my $n (sort { $a <=> $b } keys %fds) {
        my $fd = $fds{$n};
        my $flags = fcntl($fd, F_GETFL, 0);
        my $pipe = fcntl($fd, 1032, 0) || '-';
        my $at = sysseek($fd, 0, 1) || '-';
        push @lines, "$n $flags $pipe $at\n";
    }
    return join '', @lines;
}

my $name = $first ? "$file.1" : "$file.2";
my $text = given();
open(my $out, '>', "$name.new") or die;
print $out $text;
close $out;
rename "$name.new", $name;

my @sockets = grep { defined getsockname($_) } values %fds;
if ($first) {
    for my $how (@how) {
        if ($how eq 'flags') {
            for my $fd (values %fds) {
                fcntl($fd, F_SETOWN, getppid);
                my $all = O_NONBLOCK | O_APPEND | O_ASYNC;
                fcntl($fd, F_SETFL, $all | O_DIRECT) or fcntl($fd, F_SETFL, $all) or fcntl($fd, F_SETFL, O_NONBLOCK);
            }
        }
        elsif ($how eq 'small') { fcntl($_, 1031, 4096) for values %fds }
        elsif ($how eq 'large') { fcntl($_, 1031, 524288) for values %fds }
        elsif ($how eq 'seek') { sysseek($_, 3, 0) for values %fds }
        elsif ($how eq 'truncate') { truncate($_, 0) for values %fds }
        elsif ($how eq 'lock') { flock($_, 2) for values %fds }
        elsif ($how eq 'mode') { chmod(0, $_) for grep { !-c } values %fds } # /dev/null is everybody's
        elsif ($how =~ /^shutdown(\d)$/) { shutdown($_, $1) for @sockets }
        elsif ($how eq 'listen0') { listen($_, 0) for @sockets }
        elsif ($how eq 'timeout') { setsockopt($_, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', 0, 1000)) for @sockets }
        elsif ($how eq 'disconnect') { connect($_, pack('S x14', 0)) for @sockets }
        elsif ($how eq 'connect') { connect($_, sockaddr_in(9, INADDR_LOOPBACK)) for @sockets }
        else { die $how }
    }
    exit 1;
}

# Each client gets its first bytes back, one client after the other.
while (@sockets) {
    my $in = '';
    vec($in, fileno($_), 1) = 1 for @sockets;
    select($in, undef, undef, undef);
    for my $socket (@sockets) {
        next unless vec($in, fileno($socket), 1);
        if (unpack('i', getsockopt($socket, SOL_SOCKET, SO_TYPE)) == SOCK_DGRAM) {
            my $from = recv($socket, my $bytes, 100, 0);
            send($socket, $bytes, 0, $from) if defined $from && length $bytes;
        }
        elsif (accept(my $client, $socket)) {
            sysread($client, my $bytes, 100);
            syswrite($client, $bytes);
        }
    }
}
POSIX::pause();
