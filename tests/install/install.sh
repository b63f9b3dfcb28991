#!/bin/bash
# What `meson install` gives is enough: for the program, a model of one's own, and a
# program that trains through the library.
#   install.sh BUILD MAKE_DATA PREFIX SANITIZER_FLAG
here=$(dirname "$(realpath "$0")")
BUILD=$1 MAKE_DATA=$2 prefix=$3 sanitizer=$4
export LOCKSTEP=$BUILD/launcher/lockstep
# shellcheck source=tests/tools/common.sh
. "$here/../tools/common.sh"

# Meson adds the build directory, where the program would find the library that is not installed.
paths=$(tr ':' '\n' <<<"${LD_LIBRARY_PATH:-}" | grep -v "^$BUILD" | paste -sd: || true)
export LD_LIBRARY_PATH=$paths

DESTDIR=$work/root meson install -C "$BUILD" --no-rebuild >install.log || { cat install.log; exit 1; }
root=$work/root$prefix
LOCKSTEP=$root/bin/lockstep
flags=(-std=gnu11 -Wall -Wextra -Wpedantic -Wshadow -Werror)
pc=$(find "$root" -name lockstep.pc)
package() { PKG_CONFIG_PATH=$(dirname "$pc") pkg-config --define-variable="prefix=$root" "$@" lockstep; }

same "the version of lockstep.pc" "lockstep $(package --modversion)" "$("$LOCKSTEP" --version)"
library=$(ldd "$LOCKSTEP" | sed -n 's/.*liblockstep.so.0 => \([^ ]*\).*/\1/p')
same "the program finds the library installed with it" "$(find "$root" -name 'liblockstep.so.0.*')" "$(realpath "$library")"
check "it lists its commands" grep -q 'lockstep train CONFIG' <("$LOCKSTEP" --help)

"$LOCKSTEP" launch --print slurm --nodes 2 -- train away.yaml >job.sbatch 2>/dev/null
check "it prints a batch script that calls it" grep -qxF "lockstep=$LOCKSTEP" job.sbatch
check "the batch scripts are installed" ls "$root/share/lockstep/slurm/train.sbatch" "$root/share/lockstep/slurm/train-srun.sbatch" >/dev/null

# Each header alone.
read -ra cflags < <(package --cflags)
headers=$(cd "$root/include/lockstep" && find . -name '*.h' | sed 's|^\./||' | LC_ALL=C sort)
for header in $headers; do
  echo "#include \"$header\"" >header.c
  check "$header compiles alone" cc "${flags[@]}" "${cflags[@]}" -fsyntax-only header.c
done
check "the headers of a model are there" grep -qx runtime/models/model_driver.h <<<"$headers"

# A model of one's own, as README.md builds it.
read -ra libs < <(package --libs)
cp "$root/share/lockstep/examples/my_model.c" .
check "my_model.c compiles" cc "${flags[@]}" -shared -fPIC -o my_model.so my_model.c "${cflags[@]}" "${libs[@]}"
"$MAKE_DATA" text text.txt 4000
"$LOCKSTEP" prepare text --output data --split validation=0.1 text.txt
cat >own.yaml <<'YAML'
model: {name: ./my_model.so, layers: 1, width: 16, context: 16}
data: {train: data/train, validation: data/validation}
train: {steps: 5, global_batch: 8}
YAML
for n in 1 2; do
  check "my_model.so trains on $n ranks" ranks $n "$LOCKSTEP" --quiet train own.yaml --run own-$n
done
same "my_model.so: digest on 1 and 2 ranks" "$(digest own-1)" "$(digest own-2)"
same "my_model.so: the step reached" "step 5" "$(digest own-1 | cut -d' ' -f3-)"
check "my_model.so is evaluated" grep -q '"loss"' <("$LOCKSTEP" evaluate own-1 --json)
generated=$("$LOCKSTEP" generate own-1 --tokens 12 | wc -c)
check "my_model.so generates" [ "$generated" -ge 12 ]

# The library in another program: the same bits again.
# shellcheck disable=SC2086
check "embed.c compiles" cc "${flags[@]}" $sanitizer -o embed "$here/embed.c" "${cflags[@]}" "${libs[@]}"
export LD_LIBRARY_PATH=${libs[0]#-L}:$paths
check "a program trains through the library" ranks 2 ./embed own.yaml embedded >models.txt
check "and lists the models" grep -q '^gpt: ' models.txt
same "embedded: digest" "$(digest own-1)" "$(digest embedded)"

# The manual.
manual=$root/share/man/man1/lockstep.1
if command -v man >/dev/null; then
  problems=$(MANWIDTH=80 LC_ALL=C man --warnings -l "$manual" 2>&1 >manual.txt || true)
  same "the manual renders without a warning" "none" "${problems:-none}"
  for command in train prepare dataset checkpoint evaluate generate predict config; do
    check "the manual has $command" grep -qE "^ +$command " manual.txt
  done
fi
say_result
