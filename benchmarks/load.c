/* A load client for servers that want a client certificate: HTTP/1.1 over TLS 1.3, one thread, epoll.
 *
 *     load -p PORT -m MODE -c CERT -k KEY [-u PATH] [-n CONNECTIONS] [-t SECONDS] [-l OPERATIONS] [-r RATE] [-a ADDRESS]
 *
 * full    an operation is: connect, full handshake, GET, read to the server's close_notify, close
 * resume  the same with the newest session ticket that the server gave to this slot
 * keep    an operation is a GET on a connection that stays open
 * body    the same; meant for large bodies, and counts their bytes
 * idle    opens the connections, does a GET on each, and holds them: an operation is one that was held to the end
 *
 * Operations are done one after the other on each of CONNECTIONS slots, as fast as it goes; with -r, RATE of them a second are
 * due at fixed times, whatever the answers do, and latency counts from the time at which one was due.
 *
 * First it prepares: slots of keep, body and idle are connected and have had an answer, slots of resume have a ticket.  Then it says
 * "ready" on standard error, and waits for a line (or the end) of standard input.  Only then it begins to count.  At the end it prints one line
 * of JSON, and keeps its connections open until standard input ends, so that closing them is not taken for work.
 *
 * It speaks to 127.0.0.0/8 only.  Every phase ends by itself.  The server's certificate is not verified: the time of the client
 * is not what is measured.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define MOST_CONNECTIONS 20000
#define MOST_SECONDS 600.0
#define MOST_LATENCIES (1 << 23)
#define MOST_ERRORS 100  /* then it gives up: a server that fails is not measured */
#define OPENING 64       /* at a time, so that no backlog overflows */
#define PREPARE 60.0     /* seconds */
#define GRACE 10.0       /* seconds for what was begun in time */
#define WAIT_TO_GO 60.0  /* seconds for standard input; as long at the end */

enum mode { FULL, RESUME, KEEP, BODY, IDLE, MODES };
enum step { CLOSED, CONNECTING, SHAKING, ASKING, HEAD, REST, FAREWELL, RESTING };
enum { FAILED = -1, LATER = 0, GO_ON = 1 };

static const char *const mode_names[MODES] = {"full", "resume", "keep", "body", "idle"};

struct slot {
    int fd;
    enum step step;
    uint32_t waits_for; /* EPOLLIN, EPOLLOUT */
    SSL *tls;
    SSL_SESSION *ticket;
    size_t sent, have; /* bytes of the request, bytes in head */
    long long left;    /* bytes of the body to come */
    double began;
    char head[4096];
};

static struct {
    enum mode mode;
    struct sockaddr_in server;
    const char *path, *cert, *key;
    long connections;
    double seconds, rate;
    long long limit;
} options = {.path = "/hello", .connections = 16, .seconds = 1, .limit = -1};

/* What a phase has counted. */
static struct {
    long long begun, done, errors, handshakes, resumed, unclean, bytes;
    double since, until;
    long long limit;
    char first_error[200];
} phase;

static struct slot *slots, **idle;
static long idle_count, busy;
static int poller, timer;
static SSL_CTX *context;
static int slot_index; /* of a slot in its SSL */
static char request[1024], cipher[64];
static size_t request_length;
static char sink[1 << 18];
static float *latencies;
static size_t latency_count, latency_room;
static int counting;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void die(const char *format, ...) {
    va_list more;
    va_start(more, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, more);
    fputc('\n', stderr);
    va_end(more);
    exit(2);
}

static int short_lived(void) { return options.mode == FULL || options.mode == RESUME; }

static void record(double seconds) {
    if (latency_count == latency_room) {
        if (latency_room == MOST_LATENCIES) return;
        latency_room = latency_room ? latency_room * 2 : 1 << 16;
        if (!(latencies = realloc(latencies, latency_room * sizeof *latencies))) die("out of memory");
    }
    latencies[latency_count++] = (float)(seconds * 1e6);
}

static void note_error(const char *what) {
    unsigned long code = ERR_peek_last_error();
    if (phase.errors++ == 0) {
        char reason[120];
        if (code) ERR_error_string_n(code, reason, sizeof reason);
        else snprintf(reason, sizeof reason, "%s", errno ? strerror(errno) : "-");
        snprintf(phase.first_error, sizeof phase.first_error, "%s: %s", what, reason);
        for (char *c = phase.first_error; *c; c++)
            if (*c == '"' || *c == '\\' || (unsigned char)*c < ' ') *c = '\'';
    }
    ERR_clear_error();
}

static int keep_ticket(SSL *tls, SSL_SESSION *ticket) {
    struct slot *s = SSL_get_ex_data(tls, slot_index);
    if (options.mode != RESUME) return 0;
    SSL_SESSION_free(s->ticket);
    s->ticket = ticket;
    return 1;
}

/* --- when the next operation may begin --- */

static double due(long long nth) { return phase.since + (double)nth / options.rate; }

/* Whether the phase has another operation at all. */
static int more(double t) {
    if (phase.limit >= 0 && phase.begun >= phase.limit) return 0;
    if (phase.errors >= MOST_ERRORS) return 0;
    return (counting && options.rate > 0 ? due(phase.begun) : t) < phase.until;
}

static int may_begin(double t) {
    if (!more(t)) return 0;
    if (!counting) return busy < OPENING;
    return options.rate <= 0 || due(phase.begun) <= t;
}

static void set_timer(void) {
    if (options.rate <= 0) return;
    double at = due(phase.begun);
    struct itimerspec spec = {.it_value = {.tv_sec = (time_t)at, .tv_nsec = (long)((at - (double)(time_t)at) * 1e9)}};
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &spec, NULL);
}

/* --- one connection --- */

static void wait_for(struct slot *s, uint32_t what) {
    if (s->waits_for == what) return;
    struct epoll_event event = {.events = what, .data.ptr = s};
    epoll_ctl(poller, s->waits_for ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, s->fd, &event);
    s->waits_for = what;
}

static int dial(struct slot *s) {
    int on = 1;
    s->waits_for = 0;
    s->tls = NULL;
    s->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (s->fd < 0) return FAILED;
    setsockopt(s->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    if (connect(s->fd, (struct sockaddr *)&options.server, sizeof options.server) && errno != EINPROGRESS) return FAILED;
    if (!(s->tls = SSL_new(context)) || !SSL_set_fd(s->tls, s->fd)) return FAILED;
    SSL_set_connect_state(s->tls);
    SSL_set_ex_data(s->tls, slot_index, s);
    SSL_set_tlsext_host_name(s->tls, "localhost");
    if (s->ticket) SSL_set_session(s->tls, s->ticket);
    s->step = CONNECTING;
    wait_for(s, EPOLLOUT);
    return LATER;
}

static void hang_up(struct slot *s) {
    if (s->tls) {
        if (SSL_is_init_finished(s->tls)) SSL_shutdown(s->tls);
        SSL_free(s->tls);
    }
    if (s->fd >= 0) close(s->fd);
    s->tls = NULL;
    s->fd = -1;
    s->step = CLOSED;
    ERR_clear_error();
}

static void ask(struct slot *s) {
    s->sent = s->have = 0;
    s->step = ASKING;
}

/* What a call of OpenSSL that did not succeed wants; *ended is set by the peer's close_notify (1) or a bare end (2). */
static int wanted(struct slot *s, int result, int *ended) {
    *ended = 0;
    switch (SSL_get_error(s->tls, result)) {
    case SSL_ERROR_WANT_READ: wait_for(s, EPOLLIN); return LATER;
    case SSL_ERROR_WANT_WRITE: wait_for(s, EPOLLIN | EPOLLOUT); return LATER;
    case SSL_ERROR_ZERO_RETURN: *ended = 1; return FAILED;
    case SSL_ERROR_SSL:
        if (ERR_GET_REASON(ERR_peek_error()) == SSL_R_UNEXPECTED_EOF_WHILE_READING) *ended = 2;
        return FAILED;
    default: return FAILED;
    }
}

/* The length of the head in s->head, once it is whole (s->left is set then); 0: not yet; FAILED: not what was asked for. */
static int parse_head(struct slot *s) {
    char *end = memmem(s->head, s->have, "\r\n\r\n", 4);
    if (!end) return s->have == sizeof s->head ? FAILED : 0;
    if (s->have < 13 || memcmp(s->head, "HTTP/1.1 200 ", 13)) return FAILED;
    s->left = -1;
    for (char *line = s->head; line < end; line = (char *)memmem(line, (size_t)(end + 2 - line), "\r\n", 2) + 2)
        if (!strncasecmp(line, "content-length:", 15)) s->left = atoll(line + 15);
    return s->left < 0 ? FAILED : (int)(end + 4 - s->head);
}

static int read_head(struct slot *s, const char **what) {
    int ended, got = SSL_read(s->tls, s->head + s->have, (int)(sizeof s->head - s->have));
    *what = "the head of the answer";
    if (got <= 0) return wanted(s, got, &ended);
    s->have += (size_t)got;
    int length = parse_head(s);
    if (length <= 0) return length == 0 ? GO_ON : FAILED;
    long long surplus = (long long)s->have - length;
    phase.bytes += surplus;
    s->left -= surplus;
    s->step = REST;
    return s->left < 0 ? FAILED : GO_ON;
}

static int read_rest(struct slot *s, const char **what) {
    int ended, got = SSL_read(s->tls, sink, s->left < (long long)sizeof sink ? (int)s->left : (int)sizeof sink);
    *what = "the body";
    if (got <= 0) return wanted(s, got, &ended);
    phase.bytes += got;
    s->left -= got;
    return GO_ON;
}

/* Nothing more may come but tickets and, of short-lived connections, the end. */
static int read_nothing(struct slot *s, const char **what) {
    int ended, got = SSL_read(s->tls, sink, 1);
    *what = got > 0 ? "bytes after the answer" : s->step == RESTING ? "lost" : "the close";
    if (got > 0) return FAILED;
    int next = wanted(s, got, &ended);
    if (next == LATER || !ended || s->step == RESTING) return next;
    phase.unclean += ended == 2;
    return GO_ON;
}

static int shake(struct slot *s, const char **what) {
    int ended, result = SSL_do_handshake(s->tls);
    *what = "the handshake";
    if (result != 1) return wanted(s, result, &ended);
    phase.handshakes++;
    phase.resumed += SSL_session_reused(s->tls);
    if (!cipher[0]) snprintf(cipher, sizeof cipher, "%s", SSL_get_cipher_name(s->tls));
    ask(s);
    return GO_ON;
}

static int send_request(struct slot *s, const char **what) {
    int ended, put = SSL_write(s->tls, request + s->sent, (int)(request_length - s->sent));
    *what = "the request";
    if (put <= 0) return wanted(s, put, &ended);
    s->sent += (size_t)put;
    if (s->sent == request_length) {
        s->step = HEAD;
        wait_for(s, EPOLLIN);
    }
    return GO_ON;
}

static int connected(struct slot *s, const char **what) {
    socklen_t size = sizeof(int);
    int error = 0;
    getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &error, &size);
    *what = "connecting";
    errno = error;
    s->step = SHAKING;
    return error ? FAILED : GO_ON;
}

static void begin(struct slot *s, double t) {
    busy++;
    s->began = counting && options.rate > 0 ? due(phase.begun) : t;
    phase.begun++;
    if (s->step == RESTING) ask(s);
    else if (dial(s) == FAILED) {
        /* Not tried again here: it would be tried without end. */
        note_error("a socket");
        hang_up(s);
        busy--;
        idle[idle_count++] = s;
    }
}

/* The operation is over.  The slot begins the next one at once, if it may; otherwise it is idle. */
static void over(struct slot *s, const char *error) {
    double t = now();
    if (error) {
        note_error(error);
        hang_up(s);
    } else {
        phase.done++;
        if (counting) record(t - s->began);
        if (short_lived()) hang_up(s);
        else s->step = RESTING;
    }
    busy--;
    if (!error && counting && options.rate <= 0 && may_begin(t)) begin(s, t);
    else idle[idle_count++] = s;
}

static void advance(struct slot *s) {
    int next = GO_ON;
    while (next == GO_ON) {
        const char *what = "-";
        errno = 0;
        switch (s->step) {
        case CONNECTING: next = connected(s, &what); break;
        case SHAKING: next = shake(s, &what); break;
        case ASKING: next = send_request(s, &what); break;
        case HEAD: next = read_head(s, &what); break;
        case REST:
            if (s->left > 0) next = read_rest(s, &what);
            else if (short_lived()) s->step = FAREWELL;
            else over(s, NULL);
            break;
        case FAREWELL:
            if ((next = read_nothing(s, &what)) == GO_ON) over(s, NULL);
            break;
        case RESTING:
            /* It is among the idle ones already, and is connected anew when its turn comes. */
            if ((next = read_nothing(s, &what)) == FAILED) {
                note_error(what);
                hang_up(s);
                return;
            }
            break;
        case CLOSED: return;
        }
        if (next == FAILED) over(s, what);
    }
}

/* --- the phases --- */

static void begin_due(void) {
    double t = now();
    while (idle_count && may_begin(t)) {
        struct slot *s = idle[--idle_count];
        begin(s, t);
        /* A connection that is open already has nothing to wait for. */
        if (s->step == ASKING) advance(s);
    }
    if (counting) set_timer();
}

/* Returns whether standard input has said something, or has ended. */
static int look(int milliseconds) {
    struct epoll_event events[256];
    int spoken = 0, count = epoll_wait(poller, events, 256, milliseconds);
    for (int i = 0; i < count; i++) {
        uint64_t ticks;
        if (events[i].data.ptr == &timer) (void)!read(timer, &ticks, sizeof ticks);
        else if (events[i].data.ptr == &options) spoken = 1;
        else advance(events[i].data.ptr);
    }
    return spoken;
}

static void run(double seconds, long long limit) {
    memset(&phase, 0, sizeof phase);
    phase.since = now();
    phase.until = phase.since + seconds;
    phase.limit = limit;
    for (double t = phase.since; (busy || more(t)) && t < phase.until + GRACE; t = now()) {
        begin_due();
        look(20);
    }
    if (busy) {
        errno = ETIMEDOUT;
        note_error("unfinished");
    }
}

/* Waits for standard input; without one that can be waited for, not at all. */
static void wait_to_be_told(void) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &options};
    char byte = 0;
    if (epoll_ctl(poller, EPOLL_CTL_ADD, STDIN_FILENO, &event)) return;
    for (double end = now() + WAIT_TO_GO; now() < end;)
        if (look(100)) break;
    epoll_ctl(poller, EPOLL_CTL_DEL, STDIN_FILENO, NULL);
    while (read(STDIN_FILENO, &byte, 1) == 1 && byte != '\n') {}
}

static int by_size(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static double percentile(double part) {
    return latency_count ? (double)latencies[(size_t)((double)(latency_count - 1) * part)] : 0;
}

static double cpu(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
           (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static void print_result(double seconds, double used) {
    qsort(latencies, latency_count, sizeof *latencies, by_size);
    printf("{\"mode\": \"%s\", \"ops\": %lld, \"errors\": %lld, \"handshakes\": %lld, \"resumed\": %lld, \"unclean\": %lld, "
           "\"bytes\": %lld, \"seconds\": %.6f, \"client_cpu\": %.6f, \"p50_us\": %.0f, \"p99_us\": %.0f, \"max_us\": %.0f, "
           "\"cipher\": \"%s\", \"first_error\": \"%s\"}\n",
           mode_names[options.mode], phase.done, phase.errors, phase.handshakes, phase.resumed, phase.unclean, phase.bytes,
           seconds, used, percentile(0.5), percentile(0.99), percentile(1), cipher, phase.first_error);
    fflush(stdout);
}

static double number(const char *text, double least, double most) {
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most)) die("%s: %g to %g is wanted", text, least, most);
    return value;
}

static void read_options(int argc, char **argv) {
    const char *address = "127.0.0.1";
    int option, found = 0;
    options.server.sin_family = AF_INET;
    while ((option = getopt(argc, argv, "a:c:k:l:m:n:p:r:t:u:")) != -1) switch (option) {
        case 'a': address = optarg; break;
        case 'c': options.cert = optarg; break;
        case 'k': options.key = optarg; break;
        case 'l': options.limit = (long long)number(optarg, 1, 1e9); break;
        case 'm':
            for (int i = 0; i < MODES; i++)
                if (!strcmp(optarg, mode_names[i])) options.mode = (enum mode)i, found = 1;
            break;
        case 'n': options.connections = (long)number(optarg, 1, MOST_CONNECTIONS); break;
        case 'p': options.server.sin_port = htons((uint16_t)number(optarg, 1, 65535)); break;
        case 'r': options.rate = number(optarg, 0.1, 1e6); break;
        case 't': options.seconds = number(optarg, 0.01, MOST_SECONDS); break;
        case 'u': options.path = optarg; break;
        default: exit(2);
        }
    if (!found || !options.server.sin_port || !options.cert || !options.key)
        die("-p PORT -m full|resume|keep|body|idle -c CERT -k KEY are wanted; what they mean stands at the top of load.c");
    if (inet_pton(AF_INET, address, &options.server.sin_addr) != 1 || ntohl(options.server.sin_addr.s_addr) >> 24 != 127)
        die("%s: only loopback addresses are spoken to", address);
    request_length = (size_t)snprintf(request, sizeof request, "GET %s HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n%s\r\n",
                                      options.path, short_lived() ? "Connection: close\r\n" : "");
    if (request_length >= sizeof request) die("the path is too long");
}

static void make_context(void) {
    context = SSL_CTX_new(TLS_client_method());
    slot_index = SSL_get_ex_new_index(0, NULL, NULL, NULL, NULL);
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) || !SSL_CTX_set1_groups_list(context, "X25519"))
        die("OpenSSL");
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, keep_ticket);
    if (options.mode == BODY) {
        /* Fewer calls of read, so that the client keeps up. */
        SSL_CTX_set_read_ahead(context, 1);
        SSL_CTX_set_default_read_buffer_len(context, 1 << 17);
    }
    if (SSL_CTX_use_certificate_file(context, options.cert, SSL_FILETYPE_PEM) != 1) die("%s: no certificate", options.cert);
    if (SSL_CTX_use_PrivateKey_file(context, options.key, SSL_FILETYPE_PEM) != 1) die("%s: not its key", options.key);
}

static void make_slots(void) {
    struct rlimit files;
    if (!getrlimit(RLIMIT_NOFILE, &files)) {
        files.rlim_cur = files.rlim_max;
        setrlimit(RLIMIT_NOFILE, &files);
    }
    poller = epoll_create1(EPOLL_CLOEXEC);
    timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = &timer};
    if (poller < 0 || timer < 0 || epoll_ctl(poller, EPOLL_CTL_ADD, timer, &event)) die("epoll: %s", strerror(errno));
    slots = calloc((size_t)options.connections, sizeof *slots);
    idle = calloc((size_t)options.connections, sizeof *idle);
    if (!slots || !idle) die("out of memory");
    for (long i = 0; i < options.connections; i++) {
        slots[i].fd = -1;
        idle[idle_count++] = &slots[i];
    }
}

/* Every slot does one operation that does not count. */
static void prepare(void) {
    long wanted_count = options.connections;
    if (options.mode == FULL) wanted_count = 0;
    struct slot **fresh = calloc((size_t)options.connections, sizeof *fresh);
    if (!fresh) die("out of memory");
    struct slot **all = idle;
    memset(&phase, 0, sizeof phase);
    phase.since = now();
    phase.until = phase.since + PREPARE;
    phase.limit = wanted_count;
    /* What has been prepared goes into a list of its own, so that none comes twice. */
    long all_count = idle_count;
    idle = fresh;
    idle_count = 0;
    for (double t = phase.since; (busy || more(t)) && t < phase.until; t = now()) {
        while (all_count && may_begin(t)) begin(all[--all_count], t);
        look(20);
    }
    while (all_count) idle[idle_count++] = all[--all_count];
    free(all);
    if (phase.done < wanted_count) {
        if (!phase.errors) note_error("not ready in time");
        print_result(now() - phase.since, cpu());
        exit(1);
    }
}

int main(int argc, char **argv) {
    read_options(argc, argv);
    signal(SIGPIPE, SIG_IGN);
    /* The last resort; every phase has an end of its own before. */
    alarm((unsigned)(PREPARE + 2 * WAIT_TO_GO + options.seconds + GRACE + 10));
    make_context();
    make_slots();
    prepare();
    fputs("ready\n", stderr);
    if (options.mode == IDLE) {
        memset(&phase, 0, sizeof phase);
        double used = cpu(), since = now();
        wait_to_be_told();
        phase.done = options.connections - phase.errors;
        print_result(now() - since, cpu() - used);
        return phase.errors ? 1 : 0;
    }
    wait_to_be_told();
    double used = cpu();
    counting = 1;
    run(options.seconds, options.limit);
    print_result(now() - phase.since, cpu() - used);
    wait_to_be_told();
    for (long i = 0; i < options.connections; i++)
        if (slots[i].step != CLOSED) hang_up(&slots[i]);
    return phase.errors ? 1 : 0;
}
