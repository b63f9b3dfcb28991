/* The check "network": network.c looks, network_judge.c judges. */
#ifndef LKS_LAUNCHER_DOCTOR_NETWORK_H
#define LKS_LAUNCHER_DOCTOR_NETWORK_H

#include "launcher/doctor/check.h"

void lks_network_judge(lks_doctor *d);

#endif
