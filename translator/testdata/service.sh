#!/bin/sh
# A service of type process: what it does is in what it reads, or in the method's name.
case "$1" in
Echo) exec cat ;;
Forget) exit ;; # without reading
Free)
	printf '{"arguments": "%s", "folder": "%s", "environment": "%s"}' "$*" "$(pwd)" "$(env | sort | tr '\n' ' ')"
	exit
	;;
esac
read -r command argument
case "$command" in
exit) echo partial; echo "a secret on stderr $SECRET" >&2; exit "$argument" ;;
kill) kill -9 $$ ;;
sleep) echo $$ >"$argument"; sleep 600 & wait ;; # with a child that must not stay behind
leave) (sleep 600 & echo $! >"$argument"); echo done ;;
escape) setsid sleep 2 & echo done ;; # keeps stdout open, out of reach
noise) head -c 1000000 /dev/zero | tr '\0' e >&2; echo done ;;
flood) while :; do echo 0123456789012345678901234567890123456789; done ;;
lines) i=0; while [ $i -lt "$argument" ]; do i=$((i + 1)); echo "line $i"; done ;;
linesfail) echo one; echo two; exit 3 ;;
hang) echo one; sleep 600 ;;
prefixed) printf '\000\000\000\003one\000\000\000\000\000\000\000\003two' ;;
cut) printf '\000\000\000\003one\000\000\000\011two' ;;
huge) printf '\377\377\377\377' ;;
*) printf '%s %s' "$command" "$argument" ;;
esac
