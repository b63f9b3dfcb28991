/* Text written as scalars of YAML 1.1 and 1.2, so that any reader gets the same text back. */
#ifndef LKS_BASE_YAML_TEXT_H
#define LKS_BASE_YAML_TEXT_H

#include "runtime/base/text.h"

/* What the functions below take: UTF-8. */
bool lks_yaml_is_text(const char *text);

/* In double quotes; line breaks and what a reader might refuse are escaped. */
void lks_yaml_append_quoted(lks_text *out, const char *text);
/* As it stands where no reader could take it for anything else, also in a list [a, b]; else quoted. */
void lks_yaml_append_word(lks_text *out, const char *text);
/* As a block, `|` and the lines, each after `indent` spaces, without the end of the last one; quoted
 * where a block would not give the same text back. The key stands at `indent` - 2. */
void lks_yaml_append_block(lks_text *out, const char *text, int indent);

#endif
