#!/bin/sh
# Makes certificates for tests and first steps: certs/make.sh [DIRECTORY]
#   ca        the authority            server   localhost, 127.0.0.1, ::1
#   client    a Client, CN=client-1    expired  as server, but over since 2020
#   foreign   a Client of another authority
# They are made anew each time. Never use them where it matters.
set -eu
directory=${1:-$(dirname "$0")}
mkdir -p "$directory"
cd "$directory"
command -v openssl >/dev/null || { echo "make.sh: openssl is missing (apt-get install openssl)" >&2; exit 1; }
quietly() { "$@" 2>make.log || { cat make.log >&2; exit 1; }; }

authority() { # NAME SUBJECT
    quietly openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$1.key" -out "$1.pem" -days 3650 -subj "/CN=$2" \
        -addext "basicConstraints=critical,CA:TRUE" -addext "keyUsage=critical,keyCertSign,cRLSign"
}
issue() { # NAME SUBJECT AUTHORITY EXTENSIONS VALIDITY...
    name=$1 subject=$2 by=$3 extensions=$4
    shift 4
    quietly openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
        -keyout "$name.key" -out "$name.csr" -subj "/CN=$subject"
    printf 'basicConstraints=CA:FALSE\n%b\n' "$extensions" >"$name.ext"
    : >index.txt
    printf '[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\nserial=serial\nnew_certs_dir=.\ndefault_md=sha256\nrand_serial=yes\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n' >ca.cnf
    quietly openssl ca -batch -notext -config ca.cnf -cert "$by.pem" -keyfile "$by.key" \
        -in "$name.csr" -out "$name.pem" -extfile "$name.ext" "$@"
}

server='extendedKeyUsage=serverAuth\nsubjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1'
authority ca "Whimbrel test authority"
issue server localhost ca "$server" -days 3650
issue expired localhost ca "$server" -startdate 20190101000000Z -enddate 20200101000000Z
issue client client-1 ca 'extendedKeyUsage=clientAuth' -days 3650
authority foreign-ca "Another authority"
issue foreign client-1 foreign-ca 'extendedKeyUsage=clientAuth' -days 3650
rm -f ./*.csr ./*.ext ca.cnf index.txt* serial* make.log foreign-ca.* [0-9A-F]*.pem
