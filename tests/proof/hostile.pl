# Another user in the folder of a message file puts things at each name that the logger uses,
# and takes them away again, as fast as possible, until TIMES are done.
#   hostile.pl FOLDER SECRET COMMON TIMES OWNER
# SECRET may not be read; COMMON may be written by anybody, so it can be linked to.
# OWNER: the folder belongs to that user, so what is at a name is moved aside first.
use strict;
use warnings;
use Fcntl qw(O_WRONLY O_CREAT O_EXCL);
use POSIX ();

my ($folder, $secret, $common, $times, $owner) = @ARGV;
chdir $folder or die "$folder: $!";
my @names = qw(m.log .m.log.intent .m.log.intent.new .m.log.new .m.log.archive .m.log.torn-5-4
    m.log.20990101T000000.000000Z m.log.20990101T000000.000000Z.gz);
# An intent file is not moved, because that is like removing it: its batch would be taken again.
my %moved = map { $_ => 1 } qw(m.log .m.log.new .m.log.archive);
my @ways = (
    sub { symlink $secret, $_[0] },
    sub { symlink "$secret.new", $_[0] },
    sub { POSIX::mkfifo($_[0], 0666) },
    sub { mkdir $_[0] },
    sub { my $file; sysopen($file, $_[0], O_WRONLY | O_CREAT | O_EXCL, 0666) && syswrite($file, "forged\n") },
    # Only the owner of the folder can take this away again.
    $owner ? sub { link $common, $_[0] } : (),
);
umask 0;
my ($done, $tried, $aside) = (0, 0, 0);
while ($done < $times) {
    my $name = $names[$tried % @names];
    my $way = $ways[int($tried / @names) % @ways];
    $tried++;
    if ($owner && $moved{$name}) {
        rename $name, "aside-$aside-$name" and $aside++;
    }
    next unless $way->($name);
    $done++;
    # Now and then, this stays long enough for the logger to see it.
    select undef, undef, undef, 0.0005 if $tried % 50 == 0;
    rmdir $name or unlink $name;
}
print "$done $aside\n";
