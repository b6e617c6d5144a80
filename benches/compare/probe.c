/* A child whose beginning is measured: it writes its process id and the time
 * of its first instruction (CLOCK_MONOTONIC, ns) to the FIFO that it is given,
 * or that stands where the folder of its service is (s6-supervise gives it the
 * service's name alone), and waits to be killed.
 *
 * It begins without the C library's own start, which takes longer than all
 * that a supervisor does: what is measured is the supervisor and the kernel. */
#include <fcntl.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* The stack has the number of arguments first, then the arguments (elf(5)). */
#if defined __x86_64__
__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");
#elif defined __aarch64__
__asm__(".globl _start\n_start: mov x0, sp\n bl begin\n");
#else
#error "say here how a program begins on this machine"
#endif

/* The digits of a number, ended by a character, before the others of a line. */
static char *put(char *line, unsigned long long number, char end)
{
	*--line = end;
	do
		*--line = '0' + number % 10;
	while (number /= 10);
	return line;
}

void begin(long *stack)
{
	char **argv = (char **)(stack + 1);
	const char *path = stack[0] > 1 && *argv[1] == '/' ? argv[1] : "../.began";
	struct timespec now;
	char buffer[64], *line = buffer + sizeof buffer;
	long fifo;

	syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &now);
	line = put(line, now.tv_sec * 1000000000ULL + now.tv_nsec, '\n');
	line = put(line, syscall(SYS_getpid), ' ');
	fifo = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY, 0);
	/* In one write, which is atomic at this length (pipe(7)). */
	if (syscall(SYS_write, fifo, line, buffer + sizeof buffer - line) < 0)
		syscall(SYS_exit_group, 1);
	syscall(SYS_close, fifo);
	for (;;)
		syscall(SYS_ppoll, 0L, 0L, 0L, 0L, 0L);
}
