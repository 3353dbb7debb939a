/*
 * The library's parser as a program: cases from standard input, results to standard output, until the input ends.
 *
 * A case is three blobs, each after its length (32 bits, little-endian): entries of an environment, each ended by a
 * zero; container.env; opentelemetry.env. The result is one blob of entries. Each blob lies directly before a page that
 * can't be read or written, so that one byte too far ends the program.
 */
#include "../../preload/otelinject.c"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { ROOM = 1 << 20, PAGE = 65536 };

/* Memory that ends at a guard page. */
static char *guarded(void)
{
    char *start = mmap(0, ROOM + PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (start == MAP_FAILED || mprotect(start + ROOM, PAGE, PROT_NONE))
        exit(3);
    return start + ROOM;
}

/* Read a blob so that it, and a zero, end at `end`; its first byte, or null at the end of the input. */
static char *blob(char *end, uint32_t *size)
{
    if (fread(size, sizeof *size, 1, stdin) != 1)
        return 0;
    char *start = end - *size - 1;
    if (*size >= ROOM || (*size && fread(start, *size, 1, stdin) != 1))
        exit(4);
    end[-1] = 0;
    return start;
}

int main(void)
{
    char *ends[3], *arena_end = guarded(), *pointers_end = guarded();
    for (int i = 0; i < 3; i++)
        ends[i] = guarded();
    for (;;) {
        uint32_t sizes[3], total = 0;
        char *blobs[3];
        for (int i = 0; i < 3; i++)
            if (!(blobs[i] = blob(ends[i], &sizes[i])))
                return 0;
        size count = 0;
        for (char *at = blobs[0]; at < blobs[0] + sizes[0]; at += strlen(at) + 1)
            count++;
        char **entries = (char **)pointers_end - (count + MAX_ADDED + 1);
        memset(entries, 0, (count + MAX_ADDED + 1) * sizeof *entries);
        struct environment env = {entries, 0, count + MAX_ADDED, arena_end - ARENA, arena_end, 0};
        for (char *at = blobs[0]; at < blobs[0] + sizes[0]; at += strlen(at) + 1)
            entries[env.count++] = at;
        add_lines(&env, blobs[1]);
        add_lines(&env, blobs[2]);
        extend(&env, "JAVA_TOOL_OPTIONS", "-javaagent:/a/agent.jar", ' ', 0);
        extend(&env, "PYTHONPATH", "/a/python", ':', 1);
        for (size i = 0; i < env.count; i++)
            total += (uint32_t)strlen(env.entries[i]) + 1;
        fwrite(&total, sizeof total, 1, stdout);
        for (size i = 0; i < env.count; i++)
            fwrite(env.entries[i], strlen(env.entries[i]) + 1, 1, stdout);
        fflush(stdout);
    }
}
