#include "launcher/notice_source.h"

#include <stdio.h>

void lks_notice_text(char *out, size_t size, const char *text)
{
    size_t at = 0;
    for (; text[at] && at < size - 1; ++at)
        out[at] = text[at] >= ' ' && text[at] <= '~' ? text[at] : '?';
    out[at] = '\0';
}

lks_status lks_notice_strange(const lks_http_question *question, const lks_http_answer *answer)
{
    char body[40];
    lks_notice_text(body, sizeof body, answer->body);
    return LKS_FAIL(LKS_ERR_IO, "%s%s: status %ld with \"%s\", which is no answer to the question",
                    question->base, question->path, answer->status, body);
}
