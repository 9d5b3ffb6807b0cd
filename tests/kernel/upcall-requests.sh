#!/bin/bash
# SPDX-License-Identifier: GPL-2.0 OR MIT
# What mounts ask for arrives at the daemon once, whoever it is then, and every answer at who waits.
# uml-run: --memory 1G --timeout 300
exec python3 "$(dirname "${BASH_SOURCE[0]}")/upcall_requests.py"
