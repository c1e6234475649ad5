package cni

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// What golang.org/x/sys does not name, from linux/netfilter/nf_tables.h.
const (
	nftaTproxyFamily  = 1
	nftaTproxyRegAddr = 2
	nftaTproxyRegPort = 3
	nftaSocketKey     = 1
	nftaSocketDreg    = 2
	nftSocketIsOurs   = 0 // NFT_SOCKET_TRANSPARENT
	nfAccept          = 1
	sizeofNfgenmsg    = 4
)

// attributes are netlink attributes, one after the other, each padded to four
// bytes.
type attributes []byte

func attribute(kind uint16, value []byte) attributes {
	const head = 4
	b := make(attributes, head+(len(value)+3)&^3)
	binary.NativeEndian.PutUint16(b, uint16(head+len(value)))
	binary.NativeEndian.PutUint16(b[2:], kind)
	copy(b[head:], value)
	return b
}

func beNumber(kind uint16, n uint32) attributes {
	return attribute(kind, binary.BigEndian.AppendUint32(nil, n))
}

func text(kind uint16, s string) attributes { return attribute(kind, append([]byte(s), 0)) }

func nested(kind uint16, parts ...attributes) attributes {
	return attribute(kind|unix.NLA_F_NESTED, join(parts...))
}

func join(parts ...attributes) attributes {
	var all attributes
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

// native is a number as the kernel keeps it in a register.
func native(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }

// expression is one step of a rule, as "nft --debug=netlink" shows them.
func expression(name string, parts ...attributes) attributes {
	return nested(unix.NFTA_LIST_ELEM, text(unix.NFTA_EXPR_NAME, name), nested(unix.NFTA_EXPR_DATA, parts...))
}

// loadMeta puts something that the kernel knows of a packet into register 1.
func loadMeta(key uint32) attributes {
	return expression("meta", beNumber(unix.NFTA_META_KEY, key), beNumber(unix.NFTA_META_DREG, unix.NFT_REG_1))
}

// compare ends the rule unless register 1 is value, or is not.
func compare(operator uint32, value ...byte) attributes {
	return expression("cmp", beNumber(unix.NFTA_CMP_SREG, unix.NFT_REG_1), beNumber(unix.NFTA_CMP_OP, operator),
		nested(unix.NFTA_CMP_DATA, attribute(unix.NFTA_DATA_VALUE, value)))
}

func immediate(register uint32, value []byte) attributes {
	return expression("immediate", beNumber(unix.NFTA_IMMEDIATE_DREG, register),
		nested(unix.NFTA_IMMEDIATE_DATA, attribute(unix.NFTA_DATA_VALUE, value)))
}

// matchMeta is loadMeta and compare.
func matchMeta(key uint32, value ...byte) attributes {
	return join(loadMeta(key), compare(unix.NFT_CMP_EQ, value...))
}

// matchTCPFlags goes on if the flags under mask are value, or are not, by the
// operator.
func matchTCPFlags(mask byte, operator uint32, value byte) attributes {
	const offset = 13
	return join(
		expression("payload", beNumber(unix.NFTA_PAYLOAD_DREG, unix.NFT_REG_1), beNumber(unix.NFTA_PAYLOAD_BASE, unix.NFT_PAYLOAD_TRANSPORT_HEADER),
			beNumber(unix.NFTA_PAYLOAD_OFFSET, offset), beNumber(unix.NFTA_PAYLOAD_LEN, 1)),
		expression("bitwise", beNumber(unix.NFTA_BITWISE_SREG, unix.NFT_REG_1), beNumber(unix.NFTA_BITWISE_DREG, unix.NFT_REG_1),
			beNumber(unix.NFTA_BITWISE_LEN, 1),
			nested(unix.NFTA_BITWISE_MASK, attribute(unix.NFTA_DATA_VALUE, []byte{mask})),
			nested(unix.NFTA_BITWISE_XOR, attribute(unix.NFTA_DATA_VALUE, []byte{0}))),
		compare(operator, value),
	)
}

// matchTransparentSocket goes on if the packet is for a socket that has
// IP_TRANSPARENT.
func matchTransparentSocket() attributes {
	return join(
		expression("socket", beNumber(nftaSocketKey, nftSocketIsOurs), beNumber(nftaSocketDreg, unix.NFT_REG_1)),
		compare(unix.NFT_CMP_EQ, 1),
	)
}

// markAndAccept ends the rule and the chain.
func markAndAccept(mark uint32) attributes {
	return join(
		immediate(unix.NFT_REG_1, native(mark)),
		expression("meta", beNumber(unix.NFTA_META_KEY, unix.NFT_META_MARK), beNumber(unix.NFTA_META_SREG, unix.NFT_REG_1)),
		expression("immediate", beNumber(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT),
			nested(unix.NFTA_IMMEDIATE_DATA, nested(unix.NFTA_DATA_VERDICT, beNumber(unix.NFTA_VERDICT_CODE, nfAccept)))),
	)
}

// toListener hands a packet to the listening socket at address and port.
func toListener(family uint32, address []byte, port uint16) attributes {
	return join(
		immediate(unix.NFT_REG_1, address),
		immediate(unix.NFT_REG_2, binary.BigEndian.AppendUint16(nil, port)),
		expression("tproxy", beNumber(nftaTproxyFamily, family), beNumber(nftaTproxyRegAddr, unix.NFT_REG_1), beNumber(nftaTproxyRegPort, unix.NFT_REG_2)),
	)
}

// replaceTable puts one table of family inet with one chain into the network
// namespace of the calling thread: a filter at prerouting, before routing
// decides. A table of the same name goes in the same moment.
func replaceTable(table, chain string, rules ...attributes) error {
	const create = unix.NLM_F_CREATE
	var b batch
	named := text(unix.NFTA_TABLE_NAME, table)
	b.add(unix.NFT_MSG_NEWTABLE, create, named) // so that there is one to delete
	b.add(unix.NFT_MSG_DELTABLE, 0, named)
	b.add(unix.NFT_MSG_NEWTABLE, create, named)
	const mangle = -150
	priority := int32(mangle)
	b.add(unix.NFT_MSG_NEWCHAIN, create, join(
		text(unix.NFTA_CHAIN_TABLE, table), text(unix.NFTA_CHAIN_NAME, chain), text(unix.NFTA_CHAIN_TYPE, "filter"),
		nested(unix.NFTA_CHAIN_HOOK, beNumber(unix.NFTA_HOOK_HOOKNUM, unix.NF_INET_PRE_ROUTING), beNumber(unix.NFTA_HOOK_PRIORITY, uint32(priority)))))
	for _, r := range rules {
		b.add(unix.NFT_MSG_NEWRULE, create|unix.NLM_F_APPEND, join(
			text(unix.NFTA_RULE_TABLE, table), text(unix.NFTA_RULE_CHAIN, chain), nested(unix.NFTA_RULE_EXPRESSIONS, r)))
	}
	return b.send()
}

// removeTable removes a table, if it is there, from the network namespace of
// the calling thread.
func removeTable(table string) error {
	var b batch
	named := text(unix.NFTA_TABLE_NAME, table)
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, named)
	b.add(unix.NFT_MSG_DELTABLE, 0, named)
	return b.send()
}

// batch is a transaction of nf_tables: all of its messages or none.
type batch struct {
	messages []byte
	last     uint32 // sequence number
}

func (b *batch) add(kind, flags uint16, payload attributes) {
	b.message(unix.NFNL_SUBSYS_NFTABLES<<8|kind, flags|unix.NLM_F_ACK, unix.NFPROTO_INET, 0, payload)
}

func (b *batch) message(kind, flags uint16, family byte, resource uint16, payload attributes) {
	b.last++
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+sizeofNfgenmsg+len(payload)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, flags|unix.NLM_F_REQUEST)
	m = binary.NativeEndian.AppendUint32(m, b.last)
	m = append(m, 0, 0, 0, 0, family, unix.NFNETLINK_V0)
	m = binary.BigEndian.AppendUint16(m, resource)
	b.messages = append(b.messages, append(m, payload...)...)
}

func (b *batch) send() (err error) {
	var whole batch
	whole.message(unix.NFNL_MSG_BATCH_BEGIN, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)
	whole.messages = append(whole.messages, b.messages...)
	whole.message(unix.NFNL_MSG_BATCH_END, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES, nil)

	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return os.NewSyscallError("netfilter socket", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return os.NewSyscallError("setsockopt", err)
	}
	if err := unix.Sendto(fd, whole.messages, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return os.NewSyscallError("netfilter", err)
	}
	return b.answers(fd)
}

// answers reads until the last message was answered, or one with an error.
func (b *batch) answers(fd int) error {
	buf := make([]byte, os.Getpagesize())
	for {
		n, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return os.NewSyscallError("netfilter answer", err)
		}
		for m := buf[:n]; len(m) >= unix.SizeofNlMsghdr+4; {
			size := int(binary.NativeEndian.Uint32(m))
			kind, sequence := binary.NativeEndian.Uint16(m[4:]), binary.NativeEndian.Uint32(m[8:])
			if kind == unix.NLMSG_ERROR {
				if errno := -int32(binary.NativeEndian.Uint32(m[unix.SizeofNlMsghdr:])); errno != 0 {
					return fmt.Errorf("nf_tables: message %d: %w", sequence, unix.Errno(errno))
				}
				if sequence == b.last {
					return nil
				}
			}
			if size = (size + 3) &^ 3; size < unix.SizeofNlMsghdr || size > len(m) {
				break
			}
			m = m[size:]
		}
	}
}
