/* What the Kubernetes API takes as a name: told here, before a cluster would refuse it. */
#ifndef LKS_LAUNCHER_K8S_NAMES_H
#define LKS_LAUNCHER_K8S_NAMES_H

#include <stdbool.h>
#include <stdint.h>

bool lks_k8s_is_label(const char *text);    /* RFC 1123: 1 to 63 of a-z 0-9 -, none - at an end */
bool lks_k8s_is_domain(const char *text);   /* labels with dots between, up to 253 */
bool lks_k8s_is_key(const char *text);      /* of a ConfigMap: a file name */
bool lks_k8s_is_image(const char *text);    /* [HOST[:PORT]/]PATH[:TAG][@DIGEST] */
bool lks_k8s_is_resource(const char *text); /* DOMAIN/NAME */
/* Of a whole quantity of memory, 64Gi or 500M; 0: it is none, or more than the API counts (2^63 - 1). */
int64_t lks_k8s_quantity_bytes(const char *text);

#endif
