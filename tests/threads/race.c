/* Two threads write one number: ThreadSanitizer has to say so. */
#include <pthread.h>
#include <stddef.h>

static int number;

static void *add_one(void *unused)
{
    (void)unused;
    ++number;
    return NULL;
}

int main(void)
{
    pthread_t one, two;
    if (pthread_create(&one, NULL, add_one, NULL) != 0 ||
        pthread_create(&two, NULL, add_one, NULL) != 0)
        return 1;
    pthread_join(one, NULL);
    pthread_join(two, NULL);
    return 0;
}
