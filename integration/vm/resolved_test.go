package vm

import (
	"strings"
	"testing"
)

// resolvedUp starts systemd-resolved with the resolver of an uplink, and one of a
// VPN on a link of its own, which alone knows what is below vpn.example. Each is a
// dnsmasq; the VPN's is in a network namespace.
const resolvedUp = `set -e
ip netns add vpn
ip link add vpn0 type veth peer name eth0 netns vpn
ip address add 10.9.0.1/24 dev vpn0
ip link set vpn0 up
ip -n vpn address add 10.9.0.2/24 dev eth0
ip -n vpn link set eth0 up
dnsmasq='dnsmasq --keep-in-foreground --conf-file=/dev/null --no-hosts --no-resolv --bind-interfaces --user=root --pid-file --log-queries --log-facility=-'
systemd-run -q --unit=uplink-dns $dnsmasq --listen-address=127.0.0.2 --address=/www.example/192.0.2.1 --local=/example/
systemd-run -q --unit=vpn-dns ip netns exec vpn $dnsmasq --listen-address=10.9.0.2 --address=/db.vpn.example/192.0.2.2 --local=/example/
mkdir -p /run/systemd/resolved.conf.d
printf '[Resolve]\nDNS=127.0.0.2\nDomains=~.\nDNSSEC=no\n' >/run/systemd/resolved.conf.d/test.conf
systemctl restart systemd-resolved
cp /etc/resolv.conf /run/resolv.conf.before
ln -sf /run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
` + vpnUp

const vpnUp = `resolvectl dns vpn0 10.9.0.2 && resolvectl domain vpn0 vpn.example`

const resolvedDown = `rm -f /etc/resolv.conf
cp /run/resolv.conf.before /etc/resolv.conf
systemctl stop systemd-resolved uplink-dns vpn-dns
rm -r /run/systemd/resolved.conf.d
ip link del vpn0
ip netns del vpn`

// TestResolved: in pods, systemd-resolved's split DNS and its search path count as
// they do on the host, also when a VPN goes and comes while a pod runs; and what
// belongs to a VPN is asked nowhere else.
func TestResolved(t *testing.T) {
	defer in(t, Root, resolvedDown)
	in(t, Root, resolvedUp)
	mustMatch(t, in(t, Root, "cat /etc/resolv.conf"), `(?m)^nameserver 127\.0\.0\.53$`)
	apply(t, User, "", podYAML("asks", "", "exec sleep 36005", ""))
	ready(t, User, "asks")
	defer endNode(t)

	mustMatch(t, in(t, User, "podrun exec asks -- cat /etc/resolv.conf"), `(?m)^search default\.svc\.cluster\.local .* vpn\.example$`)
	const ask = "podrun exec asks -- nslookup -type=a "
	mustMatch(t, in(t, User, ask+"www.example."), `(?m)^Address.* 192\.0\.2\.1$`)
	mustMatch(t, in(t, User, ask+"db.vpn.example."), `(?m)^Address.* 192\.0\.2\.2$`)
	asked := in(t, Root, "journalctl -q -o cat -u uplink-dns")
	mustMatch(t, asked, `query\[A\] www\.example from`)
	if strings.Contains(asked, "vpn.example") {
		t.Errorf("the uplink's resolver was asked for the VPN's names:\n%s", asked)
	}

	in(t, Root, "resolvectl revert vpn0")
	await(t, User, ask+"db.vpn.example. || true", `NXDOMAIN`)
	in(t, Root, vpnUp)
	await(t, User, ask+"db.vpn.example. || true", `(?m)^Address.* 192\.0\.2\.2$`)
}
