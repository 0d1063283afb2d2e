/* Compiles a profile with libseccomp for the tests: rules on standard input, the program on standard output.
 *   default ACTION            first line; actions are the kernel's return values
 *   arch TOKEN                besides the native one
 *   rule ACTION NAME N [INDEX OP VALUE VALUE2]...
 * A name that libseccomp does not know is an error; a rule that it finds twice is not. */
#include <errno.h>
#include <inttypes.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(void) {
    char word[16], name[64];
    uint32_t action, token;
    scmp_filter_ctx ctx = NULL;
    while (scanf("%15s", word) == 1) {
        if (!strcmp(word, "default")) {
            if (scanf("%" SCNu32, &action) != 1 || !(ctx = seccomp_init(action))) return 2;
        } else if (!strcmp(word, "arch")) {
            if (scanf("%" SCNu32, &token) != 1) return 3;
            int rc = seccomp_arch_add(ctx, token);
            if (rc && rc != -EEXIST) return 4;
        } else if (!strcmp(word, "rule")) {
            unsigned count, index, op;
            struct scmp_arg_cmp args[6];
            if (scanf("%" SCNu32 " %63s %u", &action, name, &count) != 3 || count > 6) return 5;
            for (unsigned i = 0; i < count; i++) {
                uint64_t a, b;
                if (scanf("%u %u %" SCNu64 " %" SCNu64, &index, &op, &a, &b) != 4) return 6;
                args[i] = (struct scmp_arg_cmp){index, op, a, b};
            }
            int nr = seccomp_syscall_resolve_name(name);
            if (nr == __NR_SCMP_ERROR) { fprintf(stderr, "unknown %s\n", name); return 7; }
            int rc = seccomp_rule_add_array(ctx, action, nr, count, args);
            if (rc && rc != -EEXIST) { fprintf(stderr, "%s: %s\n", name, strerror(-rc)); return 8; }
        } else return 9;
    }
    return ctx && !seccomp_export_bpf(ctx, 1) ? 0 : 10;
}
