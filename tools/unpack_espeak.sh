#!/bin/sh
# Put espeak-ng 1.51 of Debian into a folder, for machines without root or network:
#
#     sh tools/unpack_espeak.sh .espeak
#     export ESPEAK_NG_LIBRARY=$PWD/.espeak/libespeak-ng.so.1 ESPEAK_NG_DATA=$PWD/.espeak LD_LIBRARY_PATH=$PWD/.espeak
#
# The library is linked with one that plays sound, which the data set never does, and which would bring a sound server along: in its
# place lies one that does nothing. Needs apt-get, dpkg and a C compiler; 14 MB.
set -eu
target=$(realpath -m "${1:?give a folder}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
apt-get download -q libespeak-ng1 espeak-ng-data libsonic0
for package in *.deb; do dpkg -x "$package" unpacked; done
mkdir -p "$target"
cp -RL unpacked/usr/lib/*/espeak-ng-data unpacked/usr/lib/*/libespeak-ng.so.1 unpacked/usr/lib/*/libsonic.so.0 "$target"
cat > silence.c <<'END'
#define NOTHING(name) void *name(void) { return 0; }
NOTHING(create_audio_device_object) NOTHING(audio_object_open) NOTHING(audio_object_close) NOTHING(audio_object_destroy)
NOTHING(audio_object_write) NOTHING(audio_object_drain) NOTHING(audio_object_flush) NOTHING(audio_object_strerror)
END
cc -shared -fPIC -Wl,-soname,libpcaudio.so.0 silence.c -o "$target/libpcaudio.so.0"
