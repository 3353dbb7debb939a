/*
 * Prints its environment, each entry ended by a zero, after a first entry: "same" if `environ` still is the array that
 * the kernel gave, else "new". With arguments it does something with it before:
 *
 *   again N   executes itself N times with the environment that it has
 *   change    sets, replaces and removes variables as applications do
 *   threads   eight threads read, and each executes this program; prints "ok" if all had the same environment
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;
static char *self;

static void *thread(void *expected)
{
    for (int i = 0; i < 1000; i++) {
        const char *value = getenv("JAVA_TOOL_OPTIONS");
        if (!value || strcmp(value, expected))
            return "the thread's environment differs";
    }
    pid_t child = fork();
    if (!child) {
        const char *value = getenv("JAVA_TOOL_OPTIONS");
        if (!value || strcmp(value, expected))
            _exit(1);
        execl(self, self, "expect", expected, (char *)0);
        _exit(2);
    }
    int status;
    return waitpid(child, &status, 0) == child && !status ? 0 : "a child's environment differs";
}

static int threads(void)
{
    pthread_t all[8];
    for (int i = 0; i < 8; i++)
        if (pthread_create(&all[i], 0, thread, getenv("JAVA_TOOL_OPTIONS")))
            return 1;
    for (int i = 0; i < 8; i++) {
        void *problem;
        pthread_join(all[i], &problem);
        if (problem)
            return puts(problem), 1;
    }
    return puts("ok"), 0;
}

static void change(void)
{
    static char put[] = "PUT=1";
    setenv("SET", "1", 1);
    setenv("JAVA_TOOL_OPTIONS", "replaced", 1);
    unsetenv("OTEL_SERVICE_NAME");
    putenv(put);
}

int main(int argc, char **argv, char **start)
{
    self = argv[0];
    if (argc > 2 && !strcmp(argv[1], "again") && atoi(argv[2]) > 0) {
        char left[16];
        snprintf(left, sizeof left, "%d", atoi(argv[2]) - 1);
        execl(self, self, "again", left, (char *)0);
        return 1;
    }
    if (argc > 2 && !strcmp(argv[1], "expect"))
        return strcmp(getenv("JAVA_TOOL_OPTIONS"), argv[2]) != 0;
    if (argc > 1 && !strcmp(argv[1], "threads"))
        return threads();
    /* glibc gives `main` what `environ` is, so that the array of the kernel is found behind the arguments. */
    start = argv + argc + 1;
    const char *array = environ == start ? "same" : "new";
    if (argc > 1 && !strcmp(argv[1], "change"))
        change();
    fwrite(array, 1, strlen(array) + 1, stdout);
    for (char **entry = environ; *entry; entry++)
        fwrite(*entry, 1, strlen(*entry) + 1, stdout);
    return 0;
}
