#include "runtime/train/ledger.h"

#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "ids are hashed as they lie in memory");

static lks_status fail_hash(void)
{
    return LKS_FAIL(LKS_ERR_INTERNAL, "libcrypto gives no SHA-256; is it restricted here?");
}

lks_status lks_ledger_hash_ids(const uint64_t *ids, size_t count, lks_ledger_hash *out)
{
    unsigned bytes;
    bool good = EVP_Digest(ids, count * sizeof *ids, (unsigned char *)out->words, &bytes,
                           EVP_sha256(), NULL) == 1;
    return good ? LKS_OK : fail_hash();
}

lks_ledger lks_ledger_start(void)
{
    return (lks_ledger){.known = true};
}

static int digit_value(char digit)
{
    return digit <= '9' ? digit - '0' : digit - 'a' + 10;
}

lks_ledger lks_ledger_resume(const char *hex)
{
    lks_ledger ledger = {.known = hex != NULL};
    unsigned char *bytes = (unsigned char *)ledger.chain.words;
    for (size_t i = 0; hex && i < sizeof ledger.chain; ++i)
        bytes[i] = (unsigned char)(digit_value(hex[2 * i]) << 4 | digit_value(hex[2 * i + 1]));
    return ledger;
}

lks_status lks_ledger_advance(lks_ledger *ledger, uint64_t step, const lks_ledger_hash *lanes,
                              int lane_count)
{
    unsigned bytes;
    EVP_MD_CTX *context = EVP_MD_CTX_new();
    bool good = context && EVP_DigestInit_ex(context, EVP_sha256(), NULL) == 1 &&
                EVP_DigestUpdate(context, &ledger->chain, sizeof ledger->chain) == 1 &&
                EVP_DigestUpdate(context, &step, sizeof step) == 1 &&
                EVP_DigestUpdate(context, lanes, (size_t)lane_count * sizeof *lanes) == 1 &&
                EVP_DigestFinal_ex(context, (unsigned char *)ledger->chain.words, &bytes) == 1;
    EVP_MD_CTX_free(context);
    return good ? LKS_OK : fail_hash();
}

const char *lks_ledger_hex(const lks_ledger *ledger, char out[65])
{
    const unsigned char *bytes = (const unsigned char *)ledger->chain.words;
    for (size_t i = 0; i < sizeof ledger->chain; ++i)
        snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    return out;
}
