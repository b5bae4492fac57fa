#!/bin/sh
# Installs Lockstep on this machine: programs, systemd units, account, directories, sample settings. It can be run again at any
# time: programs and units are replaced, settings that are there are never touched, and nothing is started, stopped or enabled.
set -eu

usage() {
  cat <<'EOF'
Usage: install.sh [--from DIR] [--prefix DIR] [--root DIR] [--dry-run] [--no-systemd]

  --from DIR     where the programs are (default: beside this script, else ../bin, where `make build` puts them)
  --prefix DIR   programs go to DIR/bin (default /usr/local)
  --root DIR     install below DIR as if it were /, for images and tries: no account is made, systemd is not told
  --no-systemd   programs and sample settings only
  --dry-run      say what would be done, and do nothing

Exit code: 0 done, 1 something is missing or failed (nothing is half done: all is checked before anything is written), 2 wrong usage.
EOF
}

say() { printf '%s\n' "$*"; }
fail() {
  printf 'install.sh: %s\n' "$*" >&2
  exit 1
}
wrong() {
  printf 'install.sh: %s\nTry install.sh --help.\n' "$*" >&2
  exit 2
}

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
from='' prefix=/usr/local root='' dry='' systemd=yes
while [ $# -gt 0 ]; do
  case $1 in
    --from | --prefix | --root)
      [ $# -ge 2 ] && [ -n "$2" ] || wrong "$1 needs a directory"
      case $1 in
        --from) from=$2 ;;
        --prefix) prefix=$2 ;;
        --root) root=${2%/} ;;
      esac
      shift
      ;;
    --dry-run) dry=yes ;;
    --no-systemd) systemd='' ;;
    -h | --help)
      usage
      exit 0
      ;;
    *) wrong "unknown argument $1" ;;
  esac
  shift
done
case $prefix in /*) ;; *) wrong "--prefix $prefix: use an absolute path" ;; esac
case $root in '' | /*) ;; *) wrong "--root $root: use an absolute path" ;; esac

programs='confmaster replicator kvnode smrctl'
units='lockstep.target lockstep-confmaster@.service lockstep-replicator@.service lockstep-kvnode@.service'
samples='confmaster.conf replicator.conf kvnode.conf'

# All is checked before anything is written.
if [ -z "$from" ]; then
  for from in "$here" "$here/../bin"; do
    [ -x "$from/kvnode" ] && break
  done
fi
missing=''
for program in $programs; do
  [ -f "$from/$program" ] && [ -x "$from/$program" ] || missing="$missing $program"
done
[ -z "$missing" ] || fail "no program$missing in $from: build them with \`make build\`, or say with --from where they are"
for program in $programs; do
  "$from/$program" --version >/dev/null 2>&1 || fail "$from/$program does not run here: is it for another machine than $(uname -m)?"
done
for unit in $units; do
  [ -z "$systemd" ] || [ -f "$here/systemd/$unit" ] || fail "no $here/systemd/$unit: run install.sh where it was unpacked"
done
for sample in $samples; do
  [ -f "$here/config/$sample" ] || fail "no $here/config/$sample: run install.sh where it was unpacked"
done
if [ -z "$root" ] && [ -z "$dry" ]; then
  [ "$(id -u)" = 0 ] || fail "it writes to $prefix and /etc: run it as root, or try it with --dry-run or --root DIR"
  [ "$(uname -s)" = Linux ] || fail "Lockstep runs on Linux only, this is $(uname -s)"
  if [ -n "$systemd" ] && ! command -v systemctl >/dev/null; then
    fail "there is no systemd here: add --no-systemd, and see \"By hand\" in docs/operations.md"
  fi
fi

# act does, or says what it would do.
act() {
  if [ -n "$dry" ]; then
    say "would: $*"
  else
    "$@"
  fi
}
directory() { # mode path
  [ -d "$2" ] || act install -d -m "$1" "$2"
}
# place puts a file under its name in one step: a program that runs keeps the old one.
place() { # mode source target
  if [ -f "$3" ] && cmp -s "$2" "$3"; then
    return
  fi
  if [ -n "$dry" ]; then
    say "would: install $3"
    return
  fi
  install -m "$1" "$2" "$3.new"
  mv -f "$3.new" "$3"
  say "installed $3"
}

directory 755 "$root$prefix/bin"
for program in $programs; do
  place 755 "$from/$program" "$root$prefix/bin/$program"
done

directory 750 "$root/etc/lockstep"
for sample in $samples; do
  place 640 "$here/config/$sample" "$root/etc/lockstep/$sample.sample"
done

if [ -n "$systemd" ]; then
  scratch=$(mktemp -d)
  trap 'rm -rf "$scratch"' EXIT
  directory 755 "$root/etc/systemd/system"
  directory 755 "$root/usr/lib/sysusers.d"
  directory 755 "$root/usr/lib/tmpfiles.d"
  for unit in $units; do
    sed "s#/usr/local/bin/#$prefix/bin/#" "$here/systemd/$unit" >"$scratch/$unit"
    place 644 "$scratch/$unit" "$root/etc/systemd/system/$unit"
  done
  place 644 "$here/systemd/sysusers.d/lockstep.conf" "$root/usr/lib/sysusers.d/lockstep.conf"
  place 644 "$here/systemd/tmpfiles.d/lockstep.conf" "$root/usr/lib/tmpfiles.d/lockstep.conf"
  if [ -z "$root" ]; then
    act systemd-sysusers /usr/lib/sysusers.d/lockstep.conf
    act systemd-tmpfiles --create /usr/lib/tmpfiles.d/lockstep.conf
    act systemctl daemon-reload
  fi
fi

# What has a password in it must not be read by everybody, whoever wrote it.
for settings in "$root"/etc/lockstep/*.conf; do
  [ -f "$settings" ] || continue
  case $(stat -c %a "$settings") in
    *[4567]) say "warning: everybody on this machine can read $settings: chmod 640 $settings" ;;
  esac
done
say "done; next: docs/install.md, \"Settings\""
