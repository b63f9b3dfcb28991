/* Hashes: XXH3-64 for blocks (speed), SHA-256 for identities. */
#ifndef LKS_BASE_HASH_H
#define LKS_BASE_HASH_H

#include "runtime/base/status.h"

#include <stddef.h>
#include <stdint.h>

uint64_t lks_hash_xxh3(const void *data, size_t bytes);

enum { LKS_SHA256_HEX = 65 }; /* 64 digits and NUL */

typedef struct lks_sha256 lks_sha256;
lks_status lks_sha256_create(lks_sha256 **out) LKS_MUST_CHECK;
void lks_sha256_update(lks_sha256 *hash, const void *data, size_t bytes);
/* Ends the hash and frees it; `hex` gets 64 lower-case digits. */
void lks_sha256_finish(lks_sha256 *hash, char hex[LKS_SHA256_HEX]);
void lks_sha256_destroy(lks_sha256 *hash); /* instead of finish; NULL is fine */

/* Whole buffer and whole file. */
lks_status lks_hash_sha256(const void *data, size_t bytes, char hex[LKS_SHA256_HEX]) LKS_MUST_CHECK;
lks_status lks_hash_sha256_file(const char *path, char hex[LKS_SHA256_HEX]) LKS_MUST_CHECK;

#endif
