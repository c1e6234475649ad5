package inflate

import "math/bits"

// A code is looked up by its first bits in a table; longer codes go on in a
// table behind it. An entry is
//
//	31     30       29       28..16       15         11..8    5..0
//	literal  table  special  value ...    end        length   bits to take
//
// value is the literal, the base of a length or distance, or where the second
// table begins; length the bits of the code before the extra bits, or of the
// second table's index.
const (
	isLiteral = 1 << 31
	isTable   = 1 << 30
	isSpecial = 1 << 29 // the block's end, or no code at all
	isEnd     = 1 << 6

	valueShift  = 12
	valueMask   = 1<<17 - 1
	lengthShift = 8

	literalBits = 11
	literalMask = 1<<literalBits - 1
	literalSize = 4096 // 2342 are the most that are used
	offsetBits  = 8
	offsetMask  = 1<<offsetBits - 1
	offsetSize  = 512 // 402 are the most that are used

	maxLiterals = 288
	maxOffsets  = 32
	maxBits     = 15
	endOfBlock  = 256
)

type (
	literals [literalSize]uint32
	offsets  [offsetSize]uint32
)

// The bases and extra bits of lengths and distances (RFC 1951, 3.2.5).
var (
	lengthBase  = [29]uint16{3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258}
	lengthExtra = [29]uint8{0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0}
	offsetBase  = [30]uint16{1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145, 8193, 12289, 16385, 24577}
	offsetExtra = [30]uint8{0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13}
)

// literalEntry is a literal or length without its code's length.
func literalEntry(symbol int) (entry uint32, extra uint8) {
	switch {
	case symbol < endOfBlock:
		return isLiteral | uint32(symbol)<<valueShift, 0
	case symbol == endOfBlock:
		return isSpecial | isEnd, 0
	case symbol-endOfBlock-1 < len(lengthBase):
		i := symbol - endOfBlock - 1
		return uint32(lengthBase[i]) << valueShift, lengthExtra[i]
	}
	return isSpecial, 0
}

func offsetEntry(symbol int) (entry uint32, extra uint8) {
	if symbol < len(offsetBase) {
		return uint32(offsetBase[symbol]) << valueShift, offsetExtra[symbol]
	}
	return isSpecial, 0
}

func plainEntry(symbol int) (entry uint32, extra uint8) { return uint32(symbol) << valueShift, 0 }

// build fills a table of 1<<first entries and those behind it for the code
// whose lengths are given. It refuses a code that is not prefix-free, and one
// that leaves bits without meaning, but for a single code of one bit, or none.
func build(table []uint32, first int, lengths []uint8, entryOf func(int) (uint32, uint8)) bool {
	var count, next [maxBits + 2]int
	longest := 0
	for _, n := range lengths {
		count[n]++
		longest = max(longest, int(n))
	}
	for i := range 1 << first {
		table[i] = isSpecial
	}
	if longest == 0 {
		return true
	}
	count[0] = 0
	code := 0
	for n := 1; n <= longest; n++ {
		code = (code + count[n-1]) << 1
		next[n] = code
	}
	total := next[longest] + count[longest]
	if total != 1<<longest && !(total == 1 && longest == 1) {
		return false
	}
	// A second table has the size that the longest code in it needs.
	free := 1 << first
	if longest > first {
		at := next
		for _, n8 := range lengths {
			if n := int(n8); n > first {
				prefix := reverse(at[n], n) & (1<<first - 1)
				table[prefix] = isSpecial | max(table[prefix]&63, uint32(n-first))
				at[n]++
			}
		}
	}
	for symbol, n8 := range lengths {
		n := int(n8)
		if n == 0 {
			continue
		}
		reversed := reverse(next[n], n)
		next[n]++
		entry, extra := entryOf(symbol)
		if n <= first {
			entry |= uint32(n)<<lengthShift | uint32(n+int(extra))
			for i := reversed; i < 1<<first; i += 1 << n {
				table[i] = entry
			}
			continue
		}
		prefix := reversed & (1<<first - 1)
		if table[prefix]&isTable == 0 {
			second := table[prefix] & 63
			table[prefix] = isTable | uint32(free)<<valueShift | second<<lengthShift
			free += 1 << second
		}
		second := table[prefix] >> lengthShift & 15
		entry |= uint32(n-first)<<lengthShift | uint32(n-first+int(extra))
		at := int(table[prefix] >> valueShift & valueMask)
		for i := reversed >> first; i < 1<<second; i += 1 << (n - first) {
			table[at+i] = entry
		}
	}
	return true
}

// reverse gives a code of n bits in the order in which they come.
func reverse(code, n int) int { return int(bits.Reverse16(uint16(code)) >> (16 - n)) }

// fixed makes the tables of the code that every decoder knows.
func (r *Reader) fixed() {
	l := r.lengths[:maxLiterals]
	for i := range l {
		switch {
		case i < 144:
			l[i] = 8
		case i < 256:
			l[i] = 9
		case i < 280:
			l[i] = 7
		default:
			l[i] = 8
		}
	}
	build(r.literal[:], literalBits, l, literalEntry)
	l = r.lengths[:maxOffsets]
	for i := range l {
		l[i] = 5
	}
	build(r.offset[:], offsetBits, l, offsetEntry)
}

// order is that of the lengths of the code of lengths.
var order = [19]uint8{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}

// dynamic reads a block's own codes.
func (r *Reader) dynamic() error {
	v, err := r.take(14)
	if err != nil {
		return err
	}
	literals, offsets, codes := int(v&31)+257, int(v>>5&31)+1, int(v>>10&15)+4
	if literals > 286 || offsets > 30 {
		return ErrCorrupt
	}
	const codeBits = 7
	var codeLengths [19]uint8
	for _, at := range order[:codes] {
		n, err := r.take(3)
		if err != nil {
			return err
		}
		codeLengths[at] = uint8(n)
	}
	var table [1 << codeBits]uint32
	if !build(table[:], codeBits, codeLengths[:], plainEntry) {
		return ErrCorrupt
	}
	all := r.lengths[:literals+offsets]
	for i := 0; i < len(all); {
		if r.nbits < 16 {
			if err := r.refill(); err != nil {
				return err
			}
		}
		e := table[r.bits&(1<<codeBits-1)]
		if e&isSpecial != 0 {
			return ErrCorrupt
		}
		if _, err := r.take(uint(e & 63)); err != nil {
			return err
		}
		symbol := e >> valueShift & valueMask
		if symbol < 16 {
			all[i] = uint8(symbol)
			i++
			continue
		}
		repeat, extra, length := uint(3), uint(3), uint8(0)
		switch symbol {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			extra, length = 2, all[i-1]
		case 18:
			repeat, extra = 11, 7
		}
		n, err := r.take(extra)
		if err != nil {
			return err
		}
		repeat += n
		if i+int(repeat) > len(all) {
			return ErrCorrupt
		}
		for range repeat {
			all[i] = length
			i++
		}
	}
	if !build(r.literal[:], literalBits, all[:literals], literalEntry) || !build(r.offset[:], offsetBits, all[literals:], offsetEntry) {
		return ErrCorrupt
	}
	return nil
}
