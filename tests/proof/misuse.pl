# A child that misuses what it was given, in another way each time it is started,
# and fails. `perl misuse.pl FILE` adds a byte to FILE each time.
use strict;
use warnings;
use Fcntl;
use Socket;

open(my $count, '>>', $ARGV[0]) or die;
my @fds;
for my $n (0 .. 40) {
    my $fd;
    push @fds, $fd if $n != fileno($count) && open($fd, '<&=', $n);
}
my @sockets = grep { defined getsockname($_) } @fds;
my @ways = (
    sub { fcntl($_, F_SETFL, O_NONBLOCK) for @fds },
    sub { fcntl($_, F_SETFL, O_DIRECT | O_NONBLOCK) for @fds },
    sub { fcntl($_, F_SETOWN, getppid), fcntl($_, F_SETFL, O_ASYNC | O_APPEND) for @fds },
    sub { fcntl($_, 1031, 4096) for @fds },    # F_SETPIPE_SZ
    sub { fcntl($_, 1031, 1048576) for @fds },
    sub { sysseek($_, 5, 0), truncate($_, 0) for @fds },
    sub { flock($_, 6), fcntl($_, 1024, F_RDLCK) for @fds },    # F_SETLEASE
    sub { chmod(0, $_) for grep { !-c } @fds },    # /dev/null is everybody's
    sub { shutdown($_, 2) for @sockets },
    sub { connect($_, pack('S x14', 0)), connect($_, sockaddr_in(9, INADDR_LOOPBACK)) for @sockets },
    sub { listen($_, 0), setsockopt($_, SOL_SOCKET, SO_RCVTIMEO, pack('l!l!', 0, 1)) for @sockets },
);
my $way = (-s $count) % @ways;
$ways[$way]->();
syswrite($count, 'x');
exit 1;
