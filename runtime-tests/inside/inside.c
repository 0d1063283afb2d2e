// One static program that runs inside the containers of the tests and does what busybox cannot:
// System V shared memory, POSIX message queues, forged signals, raw system calls, seizing processes.
// Exit code 0: it was done. 1: the kernel refused; the errno's name is printed. 2: usage.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int refused(const char *what) {
    printf("%s: %s\n", what, strerrorname_np(errno));
    return 1;
}

int main(int argc, char **argv) {
    if (argc < 2) return 2;
    const char *command = argv[1];
    const char *argument = argc > 2 ? argv[2] : "";

    if (!strcmp(command, "shm-write")) {
        int id = shmget(0x6b696c, 4096, IPC_CREAT | 0600);
        if (id < 0) return refused("shmget");
        char *at = shmat(id, 0, 0);
        if (at == (void *)-1) return refused("shmat");
        strncpy(at, argument, 4095);
        return 0;
    }
    if (!strcmp(command, "shm-read")) {
        int id = shmget(0x6b696c, 4096, 0600);
        if (id < 0) return refused("shmget");
        char *at = shmat(id, 0, SHM_RDONLY);
        if (at == (void *)-1) return refused("shmat");
        printf("%s\n", at);
        return 0;
    }
    if (!strcmp(command, "mq-send")) {
        struct mq_attr attr = {.mq_maxmsg = 4, .mq_msgsize = 256};
        mqd_t queue = mq_open("/killick", O_CREAT | O_RDWR, 0600, &attr);
        if (queue == (mqd_t)-1) return refused("mq_open");
        if (mq_send(queue, argument, strlen(argument), 0)) return refused("mq_send");
        return 0;
    }
    if (!strcmp(command, "mq-receive")) {
        char text[257] = {0};
        mqd_t queue = mq_open("/killick", O_RDONLY);
        if (queue == (mqd_t)-1) return refused("mq_open");
        struct timespec deadline = {.tv_sec = time(0) + 5};
        if (mq_timedreceive(queue, text, 256, 0, &deadline) < 0) return refused("mq_receive");
        printf("%s\n", text);
        return 0;
    }
    // Every signal to PID 1, by kill and by rt_sigqueueinfo with forged fields.
    if (!strcmp(command, "signals")) {
        for (int signal = 1; signal <= 64; signal++) {
            kill(1, signal);
            for (int code = -60; code <= 4; code++) {
                siginfo_t info;
                memset(&info, 0, sizeof info);
                info.si_signo = signal;
                info.si_code = code;
                info.si_pid = 0;
                info.si_uid = 0;
                syscall(SYS_rt_sigqueueinfo, 1, signal, &info);
                syscall(SYS_rt_tgsigqueueinfo, 1, 1, signal, &info);
            }
        }
        puts("sent");
        return 0;
    }
    // Makes a device node and opens it: type, major, minor.
    if (!strcmp(command, "device")) {
        if (argc < 5) return 2;
        char path[64];
        snprintf(path, sizeof path, "/tmp/device-%d", getpid());
        mode_t mode = (argument[0] == 'b' ? S_IFBLK : S_IFCHR) | 0666;
        if (mknod(path, mode, makedev(atoi(argv[3]), atoi(argv[4])))) return refused("mknod");
        int fd = open(path, O_RDONLY | O_NONBLOCK);
        int error = errno;
        unlink(path);
        errno = error;
        if (fd < 0) return refused("open");
        puts("opened");
        return 0;
    }
    if (!strcmp(command, "mount")) {
        if (mount("none", "/tmp", "tmpfs", 0, 0)) return refused("mount");
        puts("mounted");
        return 0;
    }
    // A system call by number with up to three arguments: prints its errno.
    if (!strcmp(command, "syscall")) {
        long a[3] = {0};
        for (int i = 0; i < 3 && i + 3 < argc; i++) a[i] = strtol(argv[i + 3], 0, 0);
        errno = 0;
        long answer = syscall(strtol(argument, 0, 0), a[0], a[1], a[2]);
        if (answer < 0) return refused("syscall");
        puts("allowed");
        return 0;
    }
    if (!strcmp(command, "unshare-user")) {
        if (syscall(SYS_unshare, 0x10000000)) return refused("unshare");
        puts("unshared");
        return 0;
    }
    // Allocates and touches megabytes, then waits.
    if (!strcmp(command, "memory")) {
        size_t bytes = (size_t)atoi(argument) << 20;
        char *at = mmap(0, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (at == MAP_FAILED) return refused("mmap");
        memset(at, 1, bytes);
        puts("touched");
        fflush(stdout);
        pause();
    }
    // fork + setsid, holding the output pipe: what a hung probe leaves behind.
    if (!strcmp(command, "escape")) {
        for (int i = 0; i < 5; i++)
            if (fork() == 0) {
                setsid();
                if (fork() == 0)
                    for (;;) pause();
                for (;;) pause();
            }
        for (;;) pause();
    }
    // Leaves N zombies to whoever is PID 1.
    if (!strcmp(command, "orphans")) {
        for (int i = 0; i < atoi(argument); i++) {
            if (fork() == 0) {
                if (fork() == 0) { usleep(1000); _exit(0); }
                _exit(0);
            }
            wait(0);
        }
        return 0;
    }
    // Seizes every process it can see for N seconds and looks at its capabilities: fails if one has more than we.
    if (!strcmp(command, "seize")) {
        time_t end = time(0) + atoi(argument);
        unsigned long long mine = 0, seized = 0, worse = 0;
        char path[64], line[256];
        FILE *f = fopen("/proc/self/status", "r");
        while (f && fgets(line, sizeof line, f)) sscanf(line, "CapBnd: %llx", &mine);
        if (f) fclose(f);
        int last = 0;
        while (time(0) < end) {
            DIR *proc = opendir("/proc");
            struct dirent *entry;
            while ((entry = readdir(proc))) {
                int pid = atoi(entry->d_name);
                if (pid <= last || pid == getpid() || pid == 1) continue;
                if (ptrace(PTRACE_SEIZE, pid, 0, 0)) continue;
                seized++;
                ptrace(PTRACE_INTERRUPT, pid, 0, 0);
                snprintf(path, sizeof path, "/proc/%d/status", pid);
                f = fopen(path, "r");
                unsigned long long eff = 0, prm = 0;
                while (f && fgets(line, sizeof line, f)) {
                    sscanf(line, "CapEff: %llx", &eff);
                    sscanf(line, "CapPrm: %llx", &prm);
                }
                if (f) fclose(f);
                if ((eff | prm) & ~mine) { worse++; printf("pid %d has %llx\n", pid, eff | prm); }
                waitpid(pid, 0, __WALL | WNOHANG);
                ptrace(PTRACE_DETACH, pid, 0, 0);
            }
            closedir(proc);
        }
        printf("seized %llu worse %llu\n", seized, worse);
        return worse ? 1 : 0;
    }
    return 2;
}
