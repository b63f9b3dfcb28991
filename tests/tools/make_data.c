/* Small inputs for the tests, the same on every machine: text, IDX images and a table.
 *
 *   make_data text FILE BYTES
 *   make_data images IMAGES LABELS COUNT [unlabelled]
 *   make_data table FILE ROWS classification|regression
 */
#include "runtime/base/rng.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t word_at(uint64_t stream, uint64_t index)
{
    return lks_rng_words(lks_rng_key(7, LKS_RNG_TEST, (uint32_t)stream), index / 4, 0)
        .word[index % 4];
}

static float uniform_at(uint64_t stream, uint64_t index)
{
    return lks_rng_uniform(word_at(stream, index));
}

static int make_text(const char *path, long bytes)
{
    static const char *const words[] = {"the ", "rank ", "holds ", "its ",    "lane ",
                                        "and ", "adds ", "what ",  "comes.\n"};
    FILE *file = fopen(path, "wb");
    if (!file)
        return 1;
    for (long at = 0, i = 0; at < bytes; ++i) {
        const char *word = words[word_at(1, (uint64_t)i) % 9];
        long length = (long)strlen(word) < bytes - at ? (long)strlen(word) : bytes - at;
        fwrite(word, 1, (size_t)length, file);
        at += length;
    }
    return fclose(file);
}

static void put_big_endian(FILE *file, uint32_t value)
{
    for (int shift = 24; shift >= 0; shift -= 8)
        fputc((int)(value >> shift & 255), file);
}

/* 10 x 10 pixels, stripes by class; when `unlabelled` some have the label 255 instead. */
static int make_images(const char *image_path, const char *label_path, long count, int unlabelled)
{
    FILE *images = fopen(image_path, "wb"), *labels = fopen(label_path, "wb");
    if (!images || !labels)
        return 1;
    put_big_endian(images, 0x00000803);
    put_big_endian(images, (uint32_t)count);
    put_big_endian(images, 10);
    put_big_endian(images, 10);
    put_big_endian(labels, 0x00000801);
    put_big_endian(labels, (uint32_t)count);
    for (long i = 0; i < count; ++i) {
        int class = (int)(word_at(2, (uint64_t)i) % 3);
        fputc(unlabelled && word_at(10, (uint64_t)i) % 7 == 0 ? 255 : class, labels);
        for (int p = 0; p < 100; ++p) {
            int noise = (int)(word_at(3, (uint64_t)(i * 100 + p)) % 128);
            fputc(noise + ((p / 10 + p % 10) % 3 == class ? 100 : 0), images);
        }
    }
    return fclose(images) | fclose(labels);
}

/* Numbers with missing values, a category, and a target that some rows lack. */
static int make_table(const char *path, long rows, int classes)
{
    static const char *const colours[] = {"red", "green", "blue", ""};
    FILE *file = fopen(path, "wb");
    if (!file)
        return 1;
    fprintf(file, "a,b,c,colour,target\n");
    for (uint64_t i = 0; i < (uint64_t)rows; ++i) {
        double a = uniform_at(4, i) * 4 - 2, b = uniform_at(5, i), c = uniform_at(6, i) * 1000;
        int colour = (int)(word_at(7, i) % 4);
        double value = sin(a) + b * colour + c / 500;
        fprintf(file, word_at(8, i) % 9 ? "%.4f," : ",", a);
        fprintf(file, "%.4f,%.2f,%s,", b, c, colours[colour]);
        if (word_at(9, i) % 11 == 0)
            fprintf(file, "\n");
        else if (classes)
            fprintf(file, "%s\n", value < 1 ? "low" : value < 2 ? "middle" : "high");
        else
            fprintf(file, "%.5f\n", value);
    }
    return fclose(file);
}

int main(int argc, char **argv)
{
    if (argc == 4 && !strcmp(argv[1], "text"))
        return make_text(argv[2], atol(argv[3]));
    if ((argc == 5 || argc == 6) && !strcmp(argv[1], "images"))
        return make_images(argv[2], argv[3], atol(argv[4]), argc == 6);
    if (argc == 5 && !strcmp(argv[1], "table"))
        return make_table(argv[2], atol(argv[3]), !strcmp(argv[4], "classification"));
    fprintf(stderr, "usage: make_data text|images|table ...\n");
    return 2;
}
