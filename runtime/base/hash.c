#include "runtime/base/hash.h"

#include "runtime/base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

uint64_t lks_hash_xxh3(const void *data, size_t bytes)
{
    return XXH3_64bits(data, bytes);
}

struct lks_sha256 {
    EVP_MD_CTX *context;
    bool failed;
};

lks_status lks_sha256_create(lks_sha256 **out)
{
    lks_sha256 *hash;
    LKS_TRY(LKS_NEW(&hash));
    hash->context = EVP_MD_CTX_new();
    if (!hash->context || EVP_DigestInit_ex(hash->context, EVP_sha256(), NULL) != 1) {
        lks_sha256_destroy(hash);
        return LKS_FAIL(LKS_ERR_INTERNAL, "libcrypto gives no SHA-256; is it restricted here?");
    }
    *out = hash;
    return LKS_OK;
}

void lks_sha256_update(lks_sha256 *hash, const void *data, size_t bytes)
{
    if (bytes && EVP_DigestUpdate(hash->context, data, bytes) != 1)
        hash->failed = true;
}

void lks_sha256_finish(lks_sha256 *hash, char hex[LKS_SHA256_HEX])
{
    static const char digits[] = "0123456789abcdef";
    unsigned char value[EVP_MAX_MD_SIZE];
    unsigned length = 0;
    if (EVP_DigestFinal_ex(hash->context, value, &length) != 1 || hash->failed)
        length = 0; /* hex becomes "", which equals no hash */
    for (unsigned i = 0; i < length; ++i) {
        hex[2 * i] = digits[value[i] >> 4];
        hex[2 * i + 1] = digits[value[i] & 15];
    }
    hex[2 * length] = '\0';
    lks_sha256_destroy(hash);
}

void lks_sha256_destroy(lks_sha256 *hash)
{
    if (!hash)
        return;
    EVP_MD_CTX_free(hash->context);
    lks_memory_free(hash);
}

lks_status lks_hash_sha256(const void *data, size_t bytes, char hex[LKS_SHA256_HEX])
{
    lks_sha256 *hash;
    LKS_TRY(lks_sha256_create(&hash));
    lks_sha256_update(hash, data, bytes);
    lks_sha256_finish(hash, hex);
    return LKS_OK;
}

static lks_status hash_read_all(int file, const char *path, lks_sha256 *hash)
{
    enum { PIECE_BYTES = 1 << 20 };
    void *piece;
    LKS_TRY(lks_memory_allocate(&piece, 1, PIECE_BYTES));
    lks_status status = LKS_OK;
    for (;;) {
        ssize_t got = read(file, piece, PIECE_BYTES);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            status = LKS_FAIL(LKS_ERR_IO, "%s: read: %s", path, strerror(errno));
        if (got <= 0)
            break;
        lks_sha256_update(hash, piece, (size_t)got);
    }
    lks_memory_free(piece);
    return status;
}

lks_status lks_hash_sha256_file(const char *path, char hex[LKS_SHA256_HEX])
{
    int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0)
        return LKS_FAIL(LKS_ERR_IO, "%s: open: %s", path, strerror(errno));
    lks_sha256 *hash = NULL;
    lks_status status = lks_sha256_create(&hash);
    if (status == LKS_OK)
        status = hash_read_all(file, path, hash);
    if (status == LKS_OK)
        lks_sha256_finish(hash, hex);
    else
        lks_sha256_destroy(hash);
    close(file);
    return status;
}
