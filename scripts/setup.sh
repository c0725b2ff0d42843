# Sourced by ./hllm and .ci/run, with $root set: what the project needs from the machine, and its build.

# Every package by its Debian name: the group that needs it, the name, the command that tells whether it is there.
packages='
build   g++                 command -v g++
build   cmake               command -v cmake
build   ninja-build         command -v ninja
build   maven               command -v mvn
build   libblis-serial-dev  header blis-serial/blis.h || header blis/blis.h
build   libhwy-dev          header hwy/highway.h
build   python3-venv        python3 -c "import ensurepip"
test    libgtest-dev        header gtest/gtest.h
test    pkgconf             command -v pkg-config
format  clang-format        command -v clang-format
'
log=$root/.setup/build.log

say() { printf '%s\n' "$@" >&2; }
die() { say "$@"; exit 1; }
header() { echo "#include <$1>" | g++ -x c++ -std=c++20 -fsyntax-only -; }

check_platform() {
    case "$(uname -s) $(uname -m)" in
        "Linux x86_64" | "Linux aarch64") ;;
        *) die "hllm4j runs on Linux (x86-64; arm64 builds), and this is $(uname -s) $(uname -m)." ;;
    esac
}

# Sets JAVA_HOME to the first JDK 25 that has a compiler.
find_jdk() {
    local home javac
    javac=$(readlink -f "$(command -v javac)") || javac=
    for home in "${JAVA_HOME:-}" /usr/lib/jvm/* "${SDKMAN_DIR:-$(echo ~/.sdkman)}"/candidates/java/* ~/.jdks/* "${javac%/bin/javac}"; do
        if [ -x "$home/bin/javac" ] && grep -q '^JAVA_VERSION="25[".]' "$home/release" 2>/dev/null; then
            export JAVA_HOME=$home
            return
        fi
    done
    return 1
}

# need_packages GROUP...: as root installs what is missing; what it cannot install, it prints the lines for.
need_packages() {
    local group package probe missing=() lines=() root_apt=no
    local install=(apt-get install -y --no-install-recommends)
    while read -r group package probe; do
        if [[ " $* " == *" $group "* ]] && ! (eval "$probe") >/dev/null 2>&1; then missing+=("$package"); fi
    done <<<"$packages"
    if [ ${#missing[@]} = 0 ] && find_jdk; then return; fi

    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then root_apt=yes; fi
    if [ $root_apt = yes ]; then apt-get update >>"$log" 2>&1 || true; fi
    if ! find_jdk; then
        if apt-cache show openjdk-25-jdk-headless >/dev/null 2>&1; then
            missing+=(openjdk-25-jdk-headless)
        else
            command -v curl >/dev/null || missing+=(curl)
            lines+=("mkdir -p ~/.jdks && curl -fL $(jdk_url) | tar -xz -C ~/.jdks")
        fi
    fi
    if [ ${#missing[@]} -gt 0 ] && [ $root_apt = yes ]; then
        say "Installing with apt: ${missing[*]}"
        DEBIAN_FRONTEND=noninteractive logged "${install[@]}" "${missing[@]}"
    elif [ ${#missing[@]} -gt 0 ]; then
        lines=("sudo apt-get update && sudo ${install[*]} ${missing[*]}" "${lines[@]}")
    fi
    if [ ${#lines[@]} -gt 0 ]; then
        say "hllm4j needs more than it finds here (a JDK 25 with javac: in JAVA_HOME, /usr/lib/jvm, SDKMAN, ~/.jdks or PATH)." \
            "Type this (packages by their Debian names), then start again:" ""
        say "${lines[@]/#/  }" ""
        exit 1
    fi
    find_jdk
}

jdk_url() {
    echo "https://api.adoptium.net/v3/binary/latest/25/ga/linux/$(uname -m | sed s/x86_64/x64/)/jdk/hotspot/normal/eclipse"
}

# Runs a step of the build quietly; where it fails, shows the end of what it said and where the rest is.
logged() {
    printf '\n$ %s\n' "$*" >>"$log"
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        tail -n 30 "$log" >&2
        die "" "Failed: $*" "The whole log: $log"
    fi
}

maven() {
    # Maven's own libraries use what JDK 25 warns of.
    MAVEN_OPTS="--enable-native-access=ALL-UNNAMED --sun-misc-unsafe-memory-access=allow ${MAVEN_OPTS:-}" \
        mvn -B -f "$root/pom.xml" "$@"
}

# What the application is built from. The root, since build folders hold absolute paths; the JDK, since hllm.aot is its own.
inputs_hash() (
    cd "$root"
    find hllm scripts CMakeLists.txt cmake native bindings java pom.xml .mvn \
        -type d \( -name target -o -name test \) -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum |
        cat - "$JAVA_HOME/release" <(echo "$root") | sha256sum | cut -c1-16
)

# The command that starts the application, with JVM options put in: the array "start".
# Native threads do the computing, so the JVM needs no collector threads of its own.
start_command() {
    local jars=("$app"/*.jar)
    start=("$JAVA_HOME/bin/java" -XX:+UseSerialGC --enable-native-access=ALL-UNNAMED "-Dhllm.library=$app/libhllm.so"
        "$@" -cp "$(IFS=: && echo "${jars[*]}")" org.hllm4j.cli.Main)
}

# Sets app to the folder of the application built from the sources as they are, building it unless that was done.
# Any number may start at once: one builds, the others wait for it.
setup() {
    check_platform
    if is_ready; then return; fi
    mkdir -p "$root/.setup"
    exec 9>"$root/.setup/lock"
    flock -n 9 || { say "Another start of hllm is setting up: waiting for it." && flock 9; }
    is_ready || build
    exec 9>&-
}

is_ready() { find_jdk && app=$root/.setup/$(inputs_hash) && [ -f "$app/ready" ]; }

build() {
    : >"$log"
    need_packages build
    app=$root/.setup/$(inputs_hash)
    say "Building hllm4j; this is needed once and takes a few minutes. Log: $log"
    rm -rf "$app" "$root/java/target/lib" # no jar of an earlier version stays behind
    logged "$root/scripts/build-native" "$root/build"
    logged maven -Dmaven.test.skip=true -pl java -am package
    mkdir "$app"
    local artifactId version
    source "$root/java/target/maven-archiver/pom.properties"
    cp "$root/java/target/$artifactId-$version.jar" "$root"/java/target/lib/*.jar "$root/build/libhllm.so" "$app"
    if [ -f "$root/build/libhllm_cuda.so" ]; then cp "$root/build/libhllm_cuda.so" "$app"; fi
    # Classes loaded and linked ahead of time, which halves the start of the JVM. A start without them works as well.
    start_command -XX:AOTCacheOutput="$app/hllm.aot"
    "${start[@]}" doctor >>"$log" 2>&1 </dev/null || true
    touch "$app/ready"
    # Builds of earlier sources go, unless a run of them still holds its lock.
    local old
    for old in "$root"/.setup/*/; do
        [ "$old" = "$app/" ] || flock -n "$old" rm -rf "$old" || true
    done
}
