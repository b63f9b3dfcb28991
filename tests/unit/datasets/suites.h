#ifndef LKS_TESTS_DATASETS_SUITES_H
#define LKS_TESTS_DATASETS_SUITES_H

#include <check.h>

Suite *order_suite(void);
Suite *dataset_suite(void);
Suite *damage_suite(void);
Suite *loader_suite(void);
Suite *mutation_suite(void);

#endif
