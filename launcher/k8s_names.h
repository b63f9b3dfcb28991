/* What the Kubernetes API takes as a name: told here, before a cluster would refuse it. */
#ifndef LKS_LAUNCHER_K8S_NAMES_H
#define LKS_LAUNCHER_K8S_NAMES_H

#include <stdbool.h>

bool lks_k8s_is_label(const char *text);    /* RFC 1123: 1 to 63 of a-z 0-9 -, none - at an end */
bool lks_k8s_is_domain(const char *text);   /* labels with dots between, up to 253 */
bool lks_k8s_is_key(const char *text);      /* of a ConfigMap: a file name */
bool lks_k8s_is_image(const char *text);    /* [HOST[:PORT]/]PATH[:TAG][@DIGEST] */
bool lks_k8s_is_resource(const char *text); /* DOMAIN/NAME */
bool lks_k8s_is_quantity(const char *text); /* whole, more than 0: 64Gi, 500M */

#endif
