#!/bin/sh
# The first process of the Debian guest: mounts what a system needs, loads the drivers of the
# devices that are there, and runs the one command it was given, or a shell, and powers off.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=${TERM:-linux}
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mkdir -p /dev/pts /dev/shm
mount -t devpts devpts /dev/pts
mount -t tmpfs tmpfs /tmp
ln -s /proc/self/fd /dev/fd

# Buses first; loading their drivers makes the devices on the next ones appear.
for bus in pci virtio usb scsi; do
  wanted=
  for file in /sys/bus/$bus/devices/*/modalias; do
    [ -e "$file" ] && read -r alias < "$file" && wanted="$wanted $alias"
  done
  [ -n "$wanted" ] && modprobe -q -a $wanted 2>/dev/null
done
cd /root

if [ -f /exec/command ]; then
  read -r token < /exec/token
  rm -f /exec/token
  # The command's bytes reach the console as they are, with no kernel message among them.
  stty -opost
  dmesg -n 1
  printf '\036%s begin\n' "$token"
  sh /exec/command < /dev/null 2>&1
  status=$?
  printf '\036%s exit %d\n' "$token" "$status"
  stty opost # waits until all is sent
else
  setsid cttyhack sh -l
fi
poweroff -f
