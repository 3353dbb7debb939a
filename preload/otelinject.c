/*
 * Turn OpenTelemetry's agents on in the process that loads this library by LD_PRELOAD.
 *
 * The constructor looks at the executable. In a process of Java, Node.js or Python it extends the variable by which
 * that runtime loads an agent, and adds the variables of two files of the view, and one that names the exporter's CA.
 * Every other process keeps its environment as it is: same array, same strings. docs/agents.md documents the files and
 * the variables.
 *
 * Promises to a process, whatever it is and whatever the files hold:
 *
 * - Nothing is printed, no error ends it, no descriptor stays open. Where a step fails, the environment stays as it is.
 * - No symbol of a libc is needed, so one file serves glibc and musl. Calls to the kernel are made directly; the four
 *   symbols used are weak, and without them nothing happens.
 * - The new environment is written once, complete, in one mapping that a child of fork shares like any other memory.
 */

typedef unsigned long size;

enum {
    AT_FDCWD = -100,
    O_RDONLY_NONBLOCK_CLOEXEC = 02004000, /* a FIFO that a pod puts in a file's place must not block */
    R_OK = 4,
    MAX_PATH = 4096,
    MAX_FILE = 32 * 1024,      /* bytes of one file of variables; a larger one is ignored */
    MAX_ADDED = 256,           /* variables */
    MAX_VARIABLE = 128 * 1024, /* MAX_ARG_STRLEN of the kernel: with a longer one no child could be executed */
    ARENA = 768 * 1024,        /* five variables of that size and both files; only touched pages cost memory */
};

/* The variables of each libc, of which these are aliases; and a function that only glibc has. */
extern char **__environ __attribute__((weak));
extern char **environ __attribute__((weak));
extern char **_environ __attribute__((weak));
extern const char *gnu_get_libc_version(void) __attribute__((weak));

/* ---- The kernel ---- */

#if defined(__x86_64__)
enum { READ = 0, CLOSE = 3, MMAP = 9, MUNMAP = 11, OPENAT = 257, READLINKAT = 267, FACCESSAT = 269 };

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(number), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
enum { READ = 63, CLOSE = 57, MMAP = 222, MUNMAP = 215, OPENAT = 56, READLINKAT = 78, FACCESSAT = 48 };

static long kernel(long number, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
}
#else
#error "only x86-64 and aarch64"
#endif

/* ---- Strings ---- */

static size length(const char *text)
{
    size n = 0;
    while (text[n])
        n++;
    return n;
}

/* The text after `prefix`, or null. */
static char *after(const char *text, const char *prefix)
{
    for (; *prefix; text++, prefix++)
        if (*text != *prefix)
            return 0;
    return (char *)text;
}

static int is_same(const char *a, const char *b, size n)
{
    while (n && *a == *b)
        a++, b++, n--;
    return !n;
}

/* Whether a list has an item, which begins and ends at a separator or at an end of the list. */
static int has_item(const char *list, const char *item, char separator)
{
    const char *rest, *at = list;
    for (; *at; at++)
        if ((at == list || at[-1] == separator) && (rest = after(at, item)) && (!*rest || *rest == separator))
            return 1;
    return 0;
}

static int is_true(const char *text)
{
    const char *word = "true";
    while (*word && (*text | 0x20) == *word)
        text++, word++;
    return !*word && !*text;
}

/* ---- The environment that is being made ---- */

struct environment {
    char **entries; /* ended by a null */
    size count, limit;
    char *free, *end; /* of the arena */
    int changed;
    int has_collector; /* the process names one itself */
};

/* The entry `NAME=value` of a variable, its name given by `length` bytes; null if it is not set. */
static char **find(struct environment *env, const char *name, size length)
{
    for (size i = 0; i < env->count; i++)
        if (is_same(env->entries[i], name, length) && env->entries[i][length] == '=')
            return &env->entries[i];
    return 0;
}

static const char *value_of(struct environment *env, const char *name)
{
    size n = length(name);
    char **entry = find(env, name, n);
    return entry ? *entry + n + 1 : 0;
}

static void put(struct environment *env, char *entry, char **place)
{
    if (!place) {
        if (env->count == env->limit)
            return;
        place = &env->entries[env->count++];
        env->entries[env->count] = 0;
    }
    *place = entry;
    env->changed = 1;
}

/* One string of several, in the arena; null where it would be too long for a variable or for the arena. */
static char *join(struct environment *env, const char *const parts[], size count)
{
    char *start = env->free, *at = start;
    for (size i = 0; i < count; i++)
        for (const char *part = parts[i]; *part; part++) {
            if (at + 1 >= env->end || at - start >= MAX_VARIABLE - 1)
                return 0;
            *at++ = *part;
        }
    if (at >= env->end)
        return 0;
    *at++ = 0;
    env->free = at;
    return start;
}

/* Add an item to the list that a variable is, unless it has it; `first` puts it before what is there. */
static void extend(struct environment *env, const char *name, const char *item, char separator, int first)
{
    const char *value = value_of(env, name);
    char between[] = {separator, 0};
    char *entry;
    if (value && has_item(value, item, separator))
        return;
    if (!value || !*value)
        between[0] = 0;
    if (!value)
        value = "";
    entry = first ? join(env, (const char *const[]){name, "=", item, between, value}, 5)
                  : join(env, (const char *const[]){name, "=", value, between, item}, 5);
    if (entry)
        put(env, entry, find(env, name, length(name)));
}

/* ---- OTEL_RESOURCE_ATTRIBUTES ---- */

static const char ATTRIBUTES[] = "OTEL_RESOURCE_ATTRIBUTES";

/* Whether a list `key=value,key=value` has a key. Blanks around a key do not count. */
static int has_key(const char *list, const char *key, size key_length)
{
    while (*list) {
        while (*list == ' ' || *list == ',')
            list++;
        if (is_same(list, key, key_length)) {
            const char *rest = list + key_length;
            while (*rest == ' ')
                rest++;
            if (*rest == '=')
                return 1;
        }
        while (*list && *list != ',')
            list++;
    }
    return 0;
}

/* Add those attributes of a list whose keys the variable does not have. */
static void merge_attributes(struct environment *env, char *list)
{
    while (*list) {
        char *end = list, *equals = 0, last;
        while (*end && *end != ',') {
            if (!equals && *end == '=')
                equals = end;
            end++;
        }
        last = *end;
        *end = 0; /* in our copy of the file */
        while (*list == ' ')
            list++;
        if (equals && equals > list) {
            size key_length = (size)(equals - list);
            const char *value = value_of(env, ATTRIBUTES);
            while (key_length && list[key_length - 1] == ' ')
                key_length--;
            if (key_length && !(value && has_key(value, list, key_length)))
                extend(env, ATTRIBUTES, list, ',', 0);
        }
        list = last ? end + 1 : end;
    }
}

/* ---- Files of variables ---- */

static int is_name(char c, int is_first)
{
    return c == '_' || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || (!is_first && c >= '0' && c <= '9');
}

static const char EXPORTER[] = "OTEL_EXPORTER_OTLP_";

/* Whether the process names a collector itself: for all signals, or for one of them. */
static int has_collector(const struct environment *env)
{
    static const char NAME_END[] = "ENDPOINT=";
    for (size i = 0; i < env->count; i++) {
        const char *rest = after(env->entries[i], EXPORTER);
        size n = 0;
        if (!rest)
            continue;
        while (rest[n] && rest[n] != '=')
            n++;
        if (n >= sizeof NAME_END - 2 && is_same(rest + n - (sizeof NAME_END - 2), NAME_END, sizeof NAME_END - 1) &&
            rest[n + 1])
            return 1;
    }
    return 0;
}

/* Add a line `NAME=value`, its value up to the end of the line. A variable that is set stays as it is. */
static void add_line(struct environment *env, char *line)
{
    size n = 0;
    const char *attributes;
    while (is_name(line[n], n == 0))
        n++;
    if (!n || line[n] != '=')
        return; /* a comment, an empty line, or no variable */
    if (n == sizeof ATTRIBUTES - 1 && is_same(line, ATTRIBUTES, n)) {
        merge_attributes(env, line + n + 1);
        return;
    }
    /* A collector that the process names gets nothing that is meant for another one, as the token in the headers. */
    if (env->has_collector && after(line, EXPORTER))
        return;
    /* An application that names its service by an attribute has named it: the variable would win over that. */
    attributes = value_of(env, ATTRIBUTES);
    if (after(line, "OTEL_SERVICE_NAME=") && attributes && has_key(attributes, "service.name", 12))
        return;
    if (!find(env, line, n))
        put(env, line, 0);
}

/* Add the lines of a text, which is changed and stays in use. */
static void add_lines(struct environment *env, char *text)
{
    while (*text) {
        char *end = text;
        while (*end && *end != '\n')
            end++;
        char last = *end;
        *end = 0;
        if (end > text && end[-1] == '\r')
            end[-1] = 0;
        add_line(env, text);
        text = last ? end + 1 : end;
    }
}

/* The content of a file in the arena, ended by a zero; null if there is none, or if it is too large. */
static char *read_file(struct environment *env, const char *path)
{
    char *start = env->free;
    long file = kernel(OPENAT, AT_FDCWD, (long)path, O_RDONLY_NONBLOCK_CLOEXEC, 0, 0, 0);
    long got = 1;
    size n = 0;
    if (file < 0)
        return 0;
    if (env->end - start < MAX_FILE + 1)
        got = -1;
    while (got > 0 && n <= MAX_FILE) {
        got = kernel(READ, file, (long)(start + n), (long)(MAX_FILE + 1 - n), 0, 0, 0);
        n += got > 0 ? (size)got : 0;
    }
    kernel(CLOSE, file, 0, 0, 0, 0, 0);
    if (got != 0)
        return 0;
    start[n] = 0;
    env->free = start + n + 1;
    return start;
}

/* Have the exporter trust the certificates of a file, if there are any, unless the process says otherwise. */
static void add_authority(struct environment *env, const char *view)
{
    static const char VARIABLE[] = "OTEL_EXPORTER_OTLP_CERTIFICATE";
    const char *path = join(env, (const char *const[]){view, "/agent/conf/", "exporter-ca.crt"}, 3);
    char first;
    char *entry;
    long file, got;
    if (!path || env->has_collector || find(env, VARIABLE, sizeof VARIABLE - 1))
        return;
    if ((file = kernel(OPENAT, AT_FDCWD, (long)path, O_RDONLY_NONBLOCK_CLOEXEC, 0, 0, 0)) < 0)
        return;
    got = kernel(READ, file, (long)&first, 1, 0, 0, 0);
    kernel(CLOSE, file, 0, 0, 0, 0, 0);
    if (got == 1 && (entry = join(env, (const char *const[]){VARIABLE, "=", path}, 3)))
        put(env, entry, 0);
}

static void add_file(struct environment *env, const char *view, const char *name)
{
    char *path = join(env, (const char *const[]){view, "/agent/conf/", name}, 3);
    char *text = path ? read_file(env, path) : 0;
    if (text)
        add_lines(env, text);
}

/* ---- What the process is ---- */

struct language {
    const char *name, *alias, *variable, *option, *path;
    char separator, is_first;
};

static const struct language JAVA = {
    "java", "java", "JAVA_TOOL_OPTIONS", "-javaagent:", "/agent/java/opentelemetry-javaagent.jar", ' ', 0};
static const struct language NODE = {
    "node", "nodejs", "NODE_OPTIONS", "--require ", "/agent/node/register.js", ' ', 0};
/* First, so that no `sitecustomize` of the application hides the package's, which runs the application's after it. */
static const struct language PYTHON_GLIBC = {
    "python", "python", "PYTHONPATH", "", "/agent/python/glibc", ':', 1};
static const struct language PYTHON_MUSL = {
    "python", "python", "PYTHONPATH", "", "/agent/python/musl", ':', 1};

/* The language of an executable by its name, which may have a version: `python3.12`. */
static const struct language *language_of(const char *executable)
{
    const char *name = executable, *rest;
    for (const char *at = executable; *at; at++)
        if (*at == '/')
            name = at + 1;
    if ((rest = after(name, "java")) && !*rest)
        return &JAVA;
    if ((rest = after(name, "node")) && !*rest)
        return &NODE;
    if (!(rest = after(name, "python")) || *rest == '2')
        return 0; /* no agent for Python 2 could be in the same directory */
    while (*rest == '.' || (*rest >= '0' && *rest <= '9'))
        rest++;
    return *rest ? 0 : gnu_get_libc_version ? &PYTHON_GLIBC : &PYTHON_MUSL;
}

/* Copy the view's directory from the entry of LD_PRELOAD that names this library; whether there is one. */
static int find_view(const char *list, char view[MAX_PATH])
{
    static const char LIBRARY[] = "/agent/lib64/libotelinject.so";
    while (*list) {
        size n = 0, own = sizeof LIBRARY - 1;
        while (list[n] && list[n] != ':' && list[n] != ' ')
            n++;
        if (n > own && n < MAX_PATH && list[0] == '/' && is_same(list + n - own, LIBRARY, own)) {
            for (size i = 0; i < n - own; i++)
                view[i] = list[i];
            view[n - own] = 0;
            return 1;
        }
        list += list[n] ? n + 1 : n;
    }
    return 0;
}

/* Make the environment of a process; whether anything in it has changed. */
static int make(struct environment *env, const struct language *language, const char *view)
{
    const char *allowed, *disabled;
    char *item = join(env, (const char *const[]){language->option, view, language->path}, 3);
    if (!item || kernel(FACCESSAT, AT_FDCWD, (long)(item + length(language->option)), R_OK, 0, 0, 0))
        return 0; /* not in this package */
    env->has_collector = has_collector(env);
    add_file(env, view, "container.env");
    add_file(env, view, "opentelemetry.env");
    add_authority(env, view);
    disabled = value_of(env, "OTEL_INJECTOR_DISABLED");
    allowed = value_of(env, "OTEL_INJECTOR_LANGUAGES");
    if (disabled && is_true(disabled))
        return 0;
    if (allowed && !has_item(allowed, language->name, ',') && !has_item(allowed, language->alias, ','))
        return 0;
    extend(env, language->variable, item, language->separator, language->is_first);
    return env->changed;
}

static void replace(char ***variable, char **old, char **entries)
{
    if (variable && *variable == old)
        *variable = entries;
}

__attribute__((constructor)) static void inject(void)
{
    char path[MAX_PATH], view[MAX_PATH];
    char **old = &__environ ? __environ : &environ ? environ : 0;
    const struct language *language;
    struct environment env = {.entries = old};
    size pointers;
    long mapped, n = kernel(READLINKAT, AT_FDCWD, (long)"/proc/self/exe", (long)path, MAX_PATH, 0, 0);
    if (n <= 0 || n == MAX_PATH || !old)
        return; /* no /proc; or libc's own constructor is still to come, because LD_PRELOAD names libc, too */
    path[n] = 0;
    if (!(language = language_of(path)))
        return;

    while (old[env.count])
        env.count++;
    const char *preload = value_of(&env, "LD_PRELOAD"), *disabled = value_of(&env, "OTEL_INJECTOR_DISABLED");
    if (!preload || (disabled && is_true(disabled)) || !find_view(preload, view))
        return;

    pointers = (env.count + MAX_ADDED + 1) * sizeof *old;
    enum { READ_WRITE = 3, PRIVATE_ANONYMOUS = 0x22 };
    mapped = kernel(MMAP, 0, (long)(pointers + ARENA), READ_WRITE, PRIVATE_ANONYMOUS, -1, 0);
    if (mapped < 0 && mapped > -MAX_PATH)
        return;
    env.entries = (char **)mapped;
    for (size i = 0; i < env.count; i++)
        env.entries[i] = old[i]; /* the rest is zero already */
    env.limit = env.count + MAX_ADDED;
    env.free = (char *)mapped + pointers;
    env.end = env.free + ARENA;
    if (!make(&env, language, view)) {
        kernel(MUNMAP, mapped, (long)(pointers + ARENA), 0, 0, 0, 0);
        return;
    }
    /* An executable may have a copy of one of the names (a copy relocation), while libc has another. */
    replace(&__environ ? &__environ : 0, old, env.entries);
    replace(&environ ? &environ : 0, old, env.entries);
    replace(&_environ ? &_environ : 0, old, env.entries);
}
