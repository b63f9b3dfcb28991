#include "fiber.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>

enum { GUARD_BYTES = 4096, SLOT_BYTES = LKS_FIBER_STACK_BYTES + GUARD_BYTES };

static char *reserve()
{
    void *memory = mmap(nullptr, lks_fiber_stacks_bytes(), PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("emulation: no memory for the threads of a block");
        abort();
    }
    char *stacks = static_cast<char *>(memory);
    for (int i = 0; i < LKS_FIBERS_MAX; ++i)
        mprotect(stacks + (size_t)i * SLOT_BYTES, GUARD_BYTES, PROT_NONE);
    return stacks;
}

char *lks_fiber_stacks()
{
    static char *const stacks = reserve();
    return stacks;
}

size_t lks_fiber_stacks_bytes()
{
    return (size_t)LKS_FIBERS_MAX * SLOT_BYTES;
}

static char *top_of(int number)
{
    return lks_fiber_stacks() + (size_t)(number + 1) * SLOT_BYTES;
}

#ifdef __x86_64__

/* A suspended stack holds the registers that a called function must keep, then the address to go on at. */
extern "C" void lks_fiber_switch(void **from, void *to);
asm(".text\n"
    ".globl lks_fiber_switch\n"
    ".hidden lks_fiber_switch\n"
    ".type lks_fiber_switch, @function\n"
    "lks_fiber_switch:\n"
    "push %rbp\n push %rbx\n push %r12\n push %r13\n push %r14\n push %r15\n"
    "mov %rsp, (%rdi)\n"
    "mov %rsi, %rsp\n"
    "pop %r15\n pop %r14\n pop %r13\n pop %r12\n pop %rbx\n pop %rbp\n"
    "ret\n"
    ".size lks_fiber_switch, .-lks_fiber_switch\n");

static void *kept[LKS_FIBERS_MAX], *scheduler;
static void (*entries[LKS_FIBERS_MAX])(int);
static int running;

static void begin()
{
    entries[running](running);
    lks_fiber_leave();
    abort(); /* a fiber that returned is never entered */
}

void lks_fiber_prepare(int number, void (*entry)(int))
{
    void **stack = reinterpret_cast<void **>(top_of(number)) - 2;
    entries[number] = entry;
    stack[0] = reinterpret_cast<void *>(begin); /* entered as if called: 16-byte aligned + 8 */
    stack[1] = nullptr;
    kept[number] = stack - 6;
}

void lks_fiber_enter(int number)
{
    running = number;
    lks_fiber_switch(&scheduler, kept[number]);
}

void lks_fiber_leave()
{
    lks_fiber_switch(&kept[running], scheduler);
}

#else

#include <ucontext.h>

static ucontext_t kept[LKS_FIBERS_MAX], scheduler;
static int running;

void lks_fiber_prepare(int number, void (*entry)(int))
{
    getcontext(&kept[number]);
    kept[number].uc_stack.ss_sp = top_of(number) - LKS_FIBER_STACK_BYTES;
    kept[number].uc_stack.ss_size = LKS_FIBER_STACK_BYTES;
    kept[number].uc_link = &scheduler;
    makecontext(&kept[number], reinterpret_cast<void (*)()>(entry), 1, number);
}

void lks_fiber_enter(int number)
{
    running = number;
    swapcontext(&scheduler, &kept[number]);
}

void lks_fiber_leave()
{
    swapcontext(&kept[running], &scheduler);
}

#endif
