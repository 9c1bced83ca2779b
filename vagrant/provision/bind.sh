#!/usr/bin/env bash
# Takes a network card from the kernel and gives it to DPDK: bind.sh MAC
#
# By vfio-pci where an IOMMU keeps the card's hands off other memory; else by uio_pci_generic, which trusts it. The card's PCI address
# is left in /etc/penstock/device, since afterwards nobody can ask the kernel for the MAC address any more.
set -euo pipefail
mac=$1
note=/etc/penstock/device

driver_of() { basename "$(readlink "/sys/bus/pci/devices/$1/driver")"; }

if [ -e $note ] && [[ $(driver_of "$(cat $note)") =~ ^(vfio-pci|uio_pci_generic)$ ]]; then
    exit 0
fi

nic=$("${0%/*}/nic.sh" "$mac")
# A virtio card is a device on a PCI device.
device=$(realpath "/sys/class/net/$nic/device")
while [ "$(basename "$(realpath "$device/subsystem")")" != pci ]; do
    device=${device%/*}
done
pci=${device##*/}

driver=uio_pci_generic
[ ! -e "$device/iommu_group" ] || driver=vfio-pci
modprobe $driver

ip link set "$nic" down
echo $driver >"$device/driver_override"
echo "$pci" >"$device/driver/unbind"
echo "$pci" >/sys/bus/pci/drivers_probe
[ "$(driver_of "$pci")" = $driver ]

mkdir -p "${note%/*}"
echo "$pci" >$note
