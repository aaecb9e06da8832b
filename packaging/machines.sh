# Sourced by tests that need whole machines: a Debian with systemd that boots in a moment. Needs testing.sh.
declare -A typing

# Boots a machine, and opens a shell of root in it that stays open.
boots() {
  local machine=$1 state
  debian "$folder/$machine"
  "${as_root[@]}" packaging/boot_debian.sh "$folder/$machine" $$ >"$folder/$machine.boot" 2>&1 </dev/null &
  running+=($!)
  for _ in $(seq 300); do
    state=$(inside "$machine" systemctl is-system-running 2>/dev/null || true)
    [ "$state" != running ] || break
    sleep 0.1
  done
  [ "$state" = running ] || fail "$machine does not boot ($state): $(cat "$folder/$machine.boot")"
  mkfifo "$folder/$machine.typed"
  : >"$folder/$machine.said"
  inside "$machine" bash <"$folder/$machine.typed" >>"$folder/$machine.said" 2>&1 &
  local keyboard
  exec {keyboard}>"$folder/$machine.typed"
  typing[$machine]=$keyboard
  does "$machine" cd
}

# Prints the process id of a machine's systemd. Fails unless its root is that of a test machine: while the machine boots it is
# the root of this one, and after its end another process may have the number.
systemd_of() {
  local pid
  pid=$(cat "$folder/$1.pid") && "${as_root[@]}" test -e "/proc/$pid/root/etc/chatserver-test-machine" && echo "$pid"
}

# Runs a program of a machine.
inside() {
  local pid
  pid=$(systemd_of "$1") || return
  shift
  "${as_root[@]}" nsenter --target "$pid" --all env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin "$@"
}

# Sets `in_network` to the words before a command that runs a program of this machine in the network of another. The program
# ends with that machine, because it is one of its processes.
in_network_of() {
  local pid
  pid=$(systemd_of "$1") || fail "the machine $1 does not run"
  in_network=("${as_root[@]}" nsenter --target "$pid" --net --pid --ipc)
}

# Types a text into the shell of a machine. `said` is the output, `ended` the line with the number of commands that failed.
types() {
  local machine=$1
  : >"$folder/$machine.said"
  printf '{ failures=0; trap "((++failures))" ERR\n%s\n} </dev/null\necho "<failures: $failures>"\n' "$2" >&"${typing[$machine]}"
  for _ in $(seq 1200); do
    said=$(cat "$folder/$machine.said")
    case $said in
    *'<failures: '*'>') break ;;
    esac
    sleep 0.05
  done
  ended=${said##*<}
  said=${said%<*}
  printf '%s\n' "$2" "$said" >"$log"
}

# Types commands that must all succeed.
does() {
  types "$1" "$2"
  [ "$ended" = 'failures: 0>' ] || fail "on the machine $1, $2: $ended"
}

