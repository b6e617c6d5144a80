/* A child whose start is measured: it writes its process id and the time
 * of its first instruction (CLOCK_MONOTONIC, ns) to the FIFO that it is given,
 * or to the one beside the folder of its service (s6-supervise passes only the
 * service's name), and waits to be killed.
 *
 * It has no C library, because the start of one takes longer than all that a
 * supervisor does: the supervisor and the kernel are to be measured. */
#include <asm/unistd.h>
#include <linux/fcntl.h>
#include <linux/time.h>

/* How a program begins, with the number of its arguments and then the arguments on
 * the stack (execve(2)), and how it makes system calls (syscall(2)). */
#if defined __x86_64__
__asm__(".text\n.globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call begin\n");

static long ask(long number, long a, long b, long c)
{
	register long d __asm__("r10") = 0, e __asm__("r8") = 0;
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "a"(number), "D"(a), "S"(b), "d"(c), "r"(d), "r"(e)
			 : "rcx", "r11", "memory");
	return result;
}
#elif defined __aarch64__
__asm__(".text\n.globl _start\n_start: mov x0, sp\n bl begin\n");

static long ask(long number, long a, long b, long c)
{
	register long x8 __asm__("x8") = number, x0 __asm__("x0") = a, x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c, x3 __asm__("x3") = 0, x4 __asm__("x4") = 0;

	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4) : "memory");
	return x0;
}
#else
#error "say here how a program begins on this machine, and how it asks the kernel"
#endif

/* Puts the digits of a number and a character before the rest of a line. */
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
	char buffer[64], *end = buffer + sizeof buffer, *line = end;
	long fifo;

	ask(__NR_clock_gettime, CLOCK_MONOTONIC, (long)&now, 0);
	line = put(line, now.tv_sec * 1000000000ULL + now.tv_nsec, '\n');
	line = put(line, ask(__NR_getpid, 0, 0, 0), ' ');
	fifo = ask(__NR_openat, AT_FDCWD, (long)path, O_WRONLY);
	/* In one write, which is atomic at this length (pipe(7)). */
	if (ask(__NR_write, fifo, (long)line, end - line) != end - line)
		ask(__NR_exit_group, 1, 0, 0);
	ask(__NR_close, fifo, 0, 0);
	for (;;)
		ask(__NR_ppoll, 0, 0, 0);
}
