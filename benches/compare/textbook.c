/* The textbooks' server: one process per client. Each writes what it
 * read to a pipe, from which another process saves it, and echoes it. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

static void serve(int client, int queue)
{
	char buffer[4096];
	ssize_t n;

	/* A write of up to 4096 bytes to a pipe is atomic (PIPE_BUF, pipe(7)). */
	while ((n = read(client, buffer, sizeof buffer)) > 0)
		if (write(queue, buffer, n) != n || write(client, buffer, n) != n)
			_exit(1);
	_exit(0);
}

static void save(int queue, const char *path)
{
	char buffer[65536];
	ssize_t n;
	int file = open(path, O_WRONLY | O_CREAT | O_APPEND, 0640);

	while (file >= 0 && (n = read(queue, buffer, sizeof buffer)) > 0)
		if (write(file, buffer, n) != n)
			_exit(1);
	_exit(file < 0);
}

/* textbook PORT FILE */
int main(int argc, char **argv)
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int queue[2], one = 1, client, listener = socket(AF_INET, SOCK_STREAM, 0);

	if (argc != 3)
		return 2;
	address.sin_port = htons(atoi(argv[1]));
	setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096) || pipe(queue))
		return 1;
	signal(SIGCHLD, SIG_IGN);
	if (fork() == 0) {
		close(queue[1]);
		save(queue[0], argv[2]);
	}
	close(queue[0]);
	while ((client = accept(listener, NULL, NULL)) >= 0) {
		setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
		if (fork() == 0) {
			close(listener);
			serve(client, queue[1]);
		}
		close(client);
	}
	return 1;
}
