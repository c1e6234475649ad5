// Package inflate reads gzip (RFC 1951, RFC 1952) faster than the standard
// library does: it looks at eight bytes of input at once and decodes into one
// flat buffer, in the manner of libdeflate. It accepts exactly what
// compress/gzip accepts; a fuzz target compares the two.
//
// It does not compress, and knows no preset dictionaries.
package inflate

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
)

// Errors of a stream.
var (
	ErrCorrupt  = errors.New("gzip: the compressed data is corrupt")
	ErrHeader   = errors.New("gzip: not a gzip header")
	ErrChecksum = errors.New("gzip: the data does not have its checksum")
)

const (
	windowSize = 32 << 10  // how far back a match may reach
	inputSize  = 256 << 10 // bytes that are read at once
	outputSize = 256 << 10 // bytes that are decoded at once, behind the window

	// A step of the decoding loop writes up to three literals and a match of 258
	// bytes, in words of eight; it reads up to 16 bytes.
	outputSlack = 3 + 258 + 8
	inputSlack  = 16
	// padding are zeros behind the end of the input, so that words may be read
	// there. Who gets through them has read beyond the end.
	padding = 64
)

// What Read does next.
type state uint8

const (
	atHeader state = iota // of a member
	atBlock               // of the deflate stream
	inStored
	inHuffman
	atTrailer
)

// Reader reads what one gzip stream, of one or more members, holds. It is not
// safe for concurrent use.
type Reader struct {
	source io.Reader
	input  []byte
	pos    int // in input, of what is not in bits yet
	end    int // of input
	ended  bool
	bits   uint64 // the next nbits bits of the stream; above them there may be more
	nbits  uint

	output   []byte
	base     int // where the member begins in output: no match reaches beyond
	from, to int // in output, of what was not read yet

	state   state
	last    bool // the block is its member's last
	stored  int  // bytes that are left of a stored block
	crc     uint32
	size    uint32
	err     error
	literal literals
	offset  offsets
	lengths [maxLiterals + maxOffsets]uint8
}

// NewReader returns a Reader of source. Unlike compress/gzip's it reads
// nothing yet, and may read more of source than the stream.
func NewReader(source io.Reader) *Reader {
	return &Reader{source: source, input: make([]byte, inputSize+padding), output: make([]byte, windowSize+outputSize+outputSlack)}
}

// Read is io.Reader's. After an error other than io.EOF nothing that was read
// is to be trusted.
func (r *Reader) Read(p []byte) (int, error) {
	for r.from == r.to {
		if r.err != nil {
			return 0, r.err
		}
		r.slide()
		at := r.to
		r.err = r.decode()
		r.crc = crc32.Update(r.crc, crc32.IEEETable, r.output[at:r.to])
		r.size += uint32(r.to - at)
		if r.state == atTrailer && r.err == nil {
			r.err = r.trailer()
		}
	}
	n := copy(p, r.output[r.from:r.to])
	r.from += n
	return n, nil
}

// slide makes room behind the window.
func (r *Reader) slide() {
	if r.to <= windowSize {
		return
	}
	gone := r.to - windowSize
	copy(r.output, r.output[gone:r.to])
	r.to, r.from, r.base = windowSize, windowSize, max(0, r.base-gone)
}

// decode goes on until the output is full, or the member ends.
func (r *Reader) decode() error {
	for {
		var err error
		switch r.state {
		case atHeader:
			err = r.header()
		case atBlock:
			if r.last {
				r.align()
				r.state = atTrailer
				continue
			}
			err = r.block()
		case inStored:
			err = r.copyStored()
		case inHuffman:
			err = r.symbols()
		case atTrailer:
			return nil
		}
		if err != nil || r.to >= windowSize+outputSize {
			return err
		}
	}
}

// more reads input, so that there are at least inputSlack bytes or the end.
func (r *Reader) more() error {
	for r.end-r.pos < inputSlack && !r.ended {
		kept := min(r.pos, 8) // align may give back what is in bits
		copy(r.input, r.input[r.pos-kept:r.end])
		r.end, r.pos = r.end-r.pos+kept, kept
		n, err := r.source.Read(r.input[r.end:inputSize])
		r.end += n
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		r.ended = err != nil
	}
	if r.ended {
		clear(r.input[r.end : r.end+padding])
		// What is in bits and was not used has been read too far.
		if r.pos-int(r.nbits>>3) > r.end {
			return io.ErrUnexpectedEOF
		}
	}
	return nil
}

// take returns the next n bits, 16 at most.
func (r *Reader) take(n uint) (uint, error) {
	if r.nbits < n {
		if err := r.refill(); err != nil {
			return 0, err
		}
	}
	v := uint(r.bits) & (1<<n - 1)
	r.bits >>= n
	r.nbits -= n
	if r.ended && r.pos-int(r.nbits>>3) > r.end {
		return 0, io.ErrUnexpectedEOF
	}
	return v, nil
}

// refill sees to it that there are 56 bits.
func (r *Reader) refill() error {
	if err := r.more(); err != nil {
		return err
	}
	r.bits |= binary.LittleEndian.Uint64(r.input[r.pos:]) << r.nbits
	r.pos += int(63-r.nbits) >> 3
	r.nbits |= 56
	return nil
}

// align goes to the next whole byte, and gives those back that are in bits.
func (r *Reader) align() {
	r.pos -= int(r.nbits >> 3)
	r.bits, r.nbits = 0, 0
}

// next returns the next byte; the stream is aligned.
func (r *Reader) next() (byte, error) {
	if r.pos >= r.end {
		if err := r.more(); err != nil {
			return 0, err
		}
		if r.pos >= r.end {
			return 0, io.ErrUnexpectedEOF
		}
	}
	r.pos++
	return r.input[r.pos-1], nil
}

// header reads the header of a member. The end is one only before it.
func (r *Reader) header() error {
	var h [10]byte
	for i := range h {
		b, err := r.next()
		if err != nil {
			if i == 0 && errors.Is(err, io.ErrUnexpectedEOF) {
				return io.EOF
			}
			return err
		}
		h[i] = b
	}
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 {
		return ErrHeader
	}
	sum := crc32.ChecksumIEEE(h[:])
	skip := func() (b byte, err error) {
		if b, err = r.next(); err == nil {
			sum = crc32.Update(sum, crc32.IEEETable, []byte{b})
		}
		return b, err
	}
	const hasSum, hasExtra, hasName, hasComment = 1 << 1, 1 << 2, 1 << 3, 1 << 4
	if h[3]&hasExtra != 0 {
		low, err := skip()
		if err != nil {
			return err
		}
		high, err := skip()
		if err != nil {
			return err
		}
		for range int(high)<<8 | int(low) {
			if _, err := skip(); err != nil {
				return err
			}
		}
	}
	for _, flag := range []byte{hasName, hasComment} {
		const longest = 512 // with its zero, as compress/gzip has it
		for n := 0; h[3]&flag != 0; n++ {
			if n == longest {
				return ErrHeader
			}
			b, err := skip()
			if err != nil {
				return err
			}
			if b == 0 {
				break
			}
		}
	}
	if h[3]&hasSum != 0 {
		want := uint16(sum)
		low, err := r.next()
		if err != nil {
			return err
		}
		high, err := r.next()
		if err != nil {
			return err
		}
		if uint16(high)<<8|uint16(low) != want {
			return ErrHeader
		}
	}
	r.state, r.last = atBlock, false
	r.base, r.crc, r.size = r.to, 0, 0
	return nil
}

// trailer compares a member with its checksum and size.
func (r *Reader) trailer() error {
	var t [8]byte
	for i := range t {
		b, err := r.next()
		if err != nil {
			return err
		}
		t[i] = b
	}
	if binary.LittleEndian.Uint32(t[:]) != r.crc || binary.LittleEndian.Uint32(t[4:]) != r.size {
		return ErrChecksum
	}
	r.state = atHeader
	return nil
}

// block reads the header of a block.
func (r *Reader) block() error {
	v, err := r.take(3)
	if err != nil {
		return err
	}
	r.last = v&1 != 0
	switch v >> 1 {
	case 0:
		r.align()
		var n [4]byte
		for i := range n {
			if n[i], err = r.next(); err != nil {
				return err
			}
		}
		length := binary.LittleEndian.Uint16(n[:])
		if length != ^binary.LittleEndian.Uint16(n[2:]) {
			return ErrCorrupt
		}
		r.stored, r.state = int(length), inStored
		return nil
	case 1:
		r.fixed()
	case 2:
		if err := r.dynamic(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	r.state = inHuffman
	return nil
}

func (r *Reader) copyStored() error {
	for r.stored > 0 && r.to < windowSize+outputSize {
		if r.pos == r.end {
			if err := r.more(); err != nil {
				return err
			}
			if r.pos == r.end {
				return io.ErrUnexpectedEOF
			}
		}
		n := copy(r.output[r.to:windowSize+outputSize], r.input[r.pos:min(r.end, r.pos+r.stored)])
		r.pos, r.to, r.stored = r.pos+n, r.to+n, r.stored-n
	}
	if r.stored == 0 {
		r.state = atBlock
	}
	return nil
}

// symbols decodes a block's literals and matches.
func (r *Reader) symbols() error {
	for r.to < windowSize+outputSize {
		if err := r.more(); err != nil {
			return err
		}
		// On the padding, a step that reads beyond the end is found by more.
		limit := r.end - inputSlack
		if r.ended {
			limit = r.end + inputSlack
		}
		ended, err := r.run(limit)
		if r.ended && r.pos-int(r.nbits>>3) > r.end {
			return io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		if ended {
			r.state = atBlock
			return nil
		}
	}
	return nil
}

// run decodes while the input is before limit and there is room for output.
// ended says that the block's end was read.
func (r *Reader) run(limit int) (ended bool, err error) {
	in, out, pos, to, base := r.input, r.output, r.pos, r.to, r.base
	bits, nbits := r.bits, r.nbits
	literal, offset := &r.literal, &r.offset
	for pos <= limit && to < windowSize+outputSize {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nbits & 63)
		pos += int(63-nbits) >> 3
		nbits |= 56
		// 56 bits are three literals of the first table, 33 bits, and a length
		// of 20.
		e := literal[bits&literalMask]
		if e&isLiteral != 0 {
			bits >>= e & 63
			nbits -= uint(e & 63)
			out[to] = byte(e >> valueShift)
			to++
			e = literal[bits&literalMask]
			if e&isLiteral != 0 {
				bits >>= e & 63
				nbits -= uint(e & 63)
				out[to] = byte(e >> valueShift)
				to++
				e = literal[bits&literalMask]
				if e&isLiteral != 0 {
					bits >>= e & 63
					nbits -= uint(e & 63)
					out[to] = byte(e >> valueShift)
					to++
					continue
				}
			}
		}
		if e&isTable != 0 {
			bits >>= literalBits
			nbits -= literalBits
			e = literal[(uint(e>>valueShift)+uint(bits)&(1<<(e>>lengthShift&15)-1))&(literalSize-1)]
			if e&isLiteral != 0 {
				bits >>= e & 63
				nbits -= uint(e & 63)
				out[to] = byte(e >> valueShift)
				to++
				continue
			}
		}
		if e&isSpecial != 0 {
			ended = e&isEnd != 0
			if ended {
				bits >>= e & 63
				nbits -= uint(e & 63)
			} else {
				err = ErrCorrupt
			}
			break
		}
		length := int(e>>valueShift&valueMask) + int((bits&(1<<(e&63)-1))>>(e>>lengthShift&15))
		bits >>= e & 63
		nbits -= uint(e & 63)

		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nbits & 63)
		pos += int(63-nbits) >> 3
		nbits |= 56
		e = offset[bits&offsetMask]
		if e&isTable != 0 {
			bits >>= offsetBits
			nbits -= offsetBits
			e = offset[(uint(e>>valueShift)+uint(bits)&(1<<(e>>lengthShift&15)-1))&(offsetSize-1)]
		}
		if e&isSpecial != 0 {
			err = ErrCorrupt
			break
		}
		distance := int(e>>valueShift&valueMask) + int((bits&(1<<(e&63)-1))>>(e>>lengthShift&15))
		bits >>= e & 63
		nbits -= uint(e & 63)

		from := to - distance
		if from < base {
			err = ErrCorrupt
			break
		}
		end := to + length
		if distance >= 8 {
			// Words, up to seven bytes too many; what comes next is written over
			// them.
			for to < end {
				binary.LittleEndian.PutUint64(out[to:], binary.LittleEndian.Uint64(out[from:]))
				to, from = to+8, from+8
			}
		} else {
			for ; to < end; to, from = to+1, from+1 {
				out[to] = out[from]
			}
		}
		to = end
	}
	r.pos, r.to, r.bits, r.nbits = pos, to, bits, nbits
	return ended, err
}
