/* A child whose beginning is measured: it writes its process id and the time
 * (CLOCK_MONOTONIC, ns) to the FIFO that it is given, or that stands where the
 * folder of its service is (s6-supervise gives it the service's name alone),
 * and waits to be killed. */
#include <fcntl.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

int main(int argc, char **argv)
{
	struct timespec now;
	char line[64];
	int n, fifo;

	clock_gettime(CLOCK_MONOTONIC, &now);
	if ((fifo = open(argc > 1 && *argv[1] == '/' ? argv[1] : "../.began", O_WRONLY)) < 0)
		return 1;
	n = snprintf(line, sizeof line, "%d %lld\n", (int)getpid(), now.tv_sec * 1000000000LL + now.tv_nsec);
	/* In one write, which is atomic at this length (pipe(7)). */
	if (write(fifo, line, n) != n)
		return 1;
	close(fifo);
	for (;;)
		pause();
}
