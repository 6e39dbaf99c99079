#!/usr/bin/env bash
# Installs the real ZooKeeper servers and clients that the peer suites use.
#
#   tests/peers/install.sh
#
# Debian packages go to the system (root, or sudo where there is one); all else goes under
# $PEERS_DIR (default <repo>/target/peers):
#
#   jars/3.9/      Apache ZooKeeper 3.9 with its dependencies, and Curator 5, out of PyPI's pyspark
#   venv/          Python with kazoo and what its own tests need
#   kazoo/         kazoo's source package, tests included
#   node/          clients of node, from npm
#   zookeeper-source/   the source of Debian's zookeeper, for its tests
#
# It may be run again at any time: what is in place is left alone, and a run that finds everything
# in place takes no network and well under two seconds.
set -euo pipefail

peers_source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
peers_dir=${PEERS_DIR:-$(cd "$peers_source/../.." && pwd)/target/peers}

# The versions that decide what is on disk. Change one, and the next run replaces that part.
pyspark_version=4.3.0
kazoo_version=2.11.0

debian_packages=(
    zookeeper zookeeper-bin libzookeeper-java
    libnetty-java libjetty9-java libslf4j-java libsnappy-java libdropwizard-metrics-java
    libcurator-client-java libcurator-framework-java libcurator-recipes-java
    junit4 junit5 libcommons-io-java libhamcrest-java
    fio python3 python3-venv iproute2 e2fsprogs libfaketime
)

# pyspark carries some 300 jars; these are the ones that an Apache server, its command line and
# Curator load.
jar_patterns=(
    'zookeeper-3.9.*.jar' 'zookeeper-jute-*.jar'
    'curator-client-*.jar' 'curator-framework-*.jar' 'curator-recipes-*.jar'
    'netty-buffer-4*.jar' 'netty-codec-4*.jar' 'netty-codec-base-4*.jar' 'netty-common-4*.jar'
    'netty-handler-4*.jar' 'netty-resolver-4*.jar' 'netty-transport-4*.jar'
    'netty-transport-classes-epoll-4*.jar' 'netty-transport-native-unix-common-4*.jar'
    'slf4j-api-*.jar' 'log4j-api-*.jar' 'log4j-core-*.jar' 'log4j-1.2-api-*.jar'
    'log4j-slf4j2-impl-*.jar'
    'metrics-core-*.jar' 'snappy-java-*.jar'
    'jackson-annotations-*.jar' 'jackson-core-2*.jar' 'jackson-databind-*.jar'
    'commons-cli-*.jar' 'commons-io-*.jar' 'audience-annotations-*.jar'
    'guava-*.jar' 'failureaccess-*.jar' 'jline-2*.jar' 'javax.servlet-api-*.jar'
)

say() { printf 'install: %s\n' "$*"; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        say "not root, and no sudo, so cannot run: $*" >&2
        return 1
    fi
}

is_package_installed() {
    [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

install_debian_packages() {
    local missing=() package
    for package in "${debian_packages[@]}"; do
        is_package_installed "$package" || missing+=("$package")
    done
    # Any JDK does; do not bring a second one to a machine that has one.
    command -v javac >/dev/null || missing+=(default-jdk-headless)
    command -v npm >/dev/null || missing+=(nodejs npm)
    [ ${#missing[@]} -gt 0 ] || return 0

    say "apt: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    as_root apt-get -qq update
    as_root apt-get -qq -y --no-install-recommends install "${missing[@]}" >"$peers_dir/apt.log" 2>&1 || {
        tail -n 30 "$peers_dir/apt.log" >&2
        return 1
    }
}

# A part is complete when its stamp holds the text that describes it: the stamp is written last, so
# an interrupted run starts that part again.
is_current() { [ -f "$1/.complete" ] && [ "$(cat "$1/.complete")" = "$2" ]; }

install_python_packages() {
    local venv=$peers_dir/venv want
    want=$(cat "$peers_source/requirements.txt")
    is_current "$venv" "$want" && return
    say "venv: $venv"
    rm -rf "$venv"
    # Debian's own interpreter, whatever else is first on the PATH.
    /usr/bin/python3 -m venv "$venv"
    "$venv/bin/pip" --quiet --disable-pip-version-check install --use-pep517 -r "$peers_source/requirements.txt"
    printf '%s\n' "$want" >"$venv/.complete"
}

# Downloads one source package from PyPI into the directory $3 (pip picks and checks the file).
download_source_package() {
    "$peers_dir/venv/bin/pip" --quiet --disable-pip-version-check download \
        --no-cache-dir --no-deps --no-binary :all: --dest "$3" "$1==$2"
}

install_apache_jars() {
    local jars=$peers_dir/jars/3.9 want="pyspark $pyspark_version ${jar_patterns[*]}"
    is_current "$jars" "$want" && return
    say "Apache 3.9 jars: $jars (a download of 450 MB)"
    local download=$peers_dir/download patterns=() pattern
    rm -rf "$jars" "$download"
    mkdir -p "$jars" "$download"
    download_source_package pyspark "$pyspark_version" "$download"
    for pattern in "${jar_patterns[@]}"; do
        patterns+=("*/deps/jars/$pattern")
    done
    tar -xzf "$download"/pyspark-*.tar.gz -C "$jars" --strip-components=3 --wildcards "${patterns[@]}"
    rm -rf "$download"
    printf '%s\n' "$want" >"$jars/.complete"
}

install_kazoo_source() {
    local kazoo=$peers_dir/kazoo want="kazoo $kazoo_version"
    is_current "$kazoo" "$want" && return
    say "kazoo source: $kazoo"
    local download=$peers_dir/download
    rm -rf "$kazoo" "$download"
    mkdir -p "$kazoo" "$download"
    download_source_package kazoo "$kazoo_version" "$download"
    tar -xzf "$download"/kazoo-*.tar.gz -C "$kazoo" --strip-components=1
    rm -rf "$download"
    printf '%s\n' "$want" >"$kazoo/.complete"
}

install_node_packages() {
    local node=$peers_dir/node want
    want=$(cat "$peers_source/node_client/package.json")
    is_current "$node" "$want" && return
    say "node clients: $node"
    rm -rf "$node"
    mkdir -p "$node"
    cp "$peers_source/node_client/package.json" "$node"
    # One of them is in C++ and is built, or brings what was built for the usual machines.
    npm --prefix "$node" install --silent --no-audit --no-fund >"$peers_dir/npm.log" 2>&1 || {
        tail -n 30 "$peers_dir/npm.log" >&2
        return 1
    }
    printf '%s\n' "$want" >"$node/.complete"
}

# The source package of the zookeeper that is installed. apt gets lists of its own, for the system's may name no sources.
install_zookeeper_source() {
    local source=$peers_dir/zookeeper-source version want
    version=$(dpkg-query -W -f='${source:Version}' libzookeeper-java)
    want="zookeeper $version"
    is_current "$source" "$want" && return
    say "zookeeper's source: $source"
    local download=$peers_dir/download suite
    suite=$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")
    rm -rf "$source" "$download"
    mkdir -p "$source" "$download"/{lists,cache/archives}/partial
    printf 'deb-src http://deb.debian.org/debian %s main\n' "$suite" "$suite-updates" >"$download/sources.list"
    printf 'deb-src http://deb.debian.org/debian-security %s-security main\n' "$suite" >>"$download/sources.list"
    local options=(-qq -o "Dir::State::lists=$download/lists" -o "Dir::Cache=$download/cache"
        -o "Dir::Etc::sourcelist=$download/sources.list" -o Dir::Etc::sourceparts=/dev/null
        -o APT::Sandbox::User=root)
    apt-get "${options[@]}" update
    (cd "$download" && apt-get "${options[@]}" source --download-only "zookeeper=$version")
    tar -xzf "$download"/zookeeper_*.orig.tar.gz -C "$source" --strip-components=1
    rm -rf "$download"
    printf '%s\n' "$want" >"$source/.complete"
}

mkdir -p "$peers_dir"
# Two test runs may start together; the second waits and then finds everything in place.
exec 9>"$peers_dir/.install-lock"
flock 9

install_debian_packages
install_python_packages
install_apache_jars
install_kazoo_source
install_node_packages
install_zookeeper_source
