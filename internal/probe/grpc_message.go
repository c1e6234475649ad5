package probe

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// rpcCode is a status code of gRPC.
type rpcCode int

const (
	codeDeadlineExceeded rpcCode = 4
	codeUnimplemented    rpcCode = 12
)

var codeNames = []string{
	"OK", "Canceled", "Unknown", "InvalidArgument", "DeadlineExceeded", "NotFound", "AlreadyExists", "PermissionDenied",
	"ResourceExhausted", "FailedPrecondition", "Aborted", "OutOfRange", "Unimplemented", "Internal", "Unavailable",
	"DataLoss", "Unauthenticated",
}

func (c rpcCode) String() string {
	if c >= 0 && int(c) < len(codeNames) {
		return codeNames[c]
	}
	return fmt.Sprintf("Code(%d)", int(c))
}

// rpcError is a call that the server refused.
type rpcError struct {
	code    rpcCode
	message string
}

func (e *rpcError) Error() string {
	return fmt.Sprintf("rpc error: code = %s desc = %s", e.code, e.message)
}

// servingStatus is grpc.health.v1.HealthCheckResponse.ServingStatus.
type servingStatus uint64

const statusServing servingStatus = 1

func statusName(s servingStatus) string {
	names := []string{"UNKNOWN", "SERVING", "NOT_SERVING", "SERVICE_UNKNOWN"}
	if s < servingStatus(len(names)) {
		return names[s]
	}
	return fmt.Sprint(uint64(s))
}

// frameHead is what precedes a message on the wire: a byte that tells whether
// it is compressed, and its length.
const frameHead = 5

// Wire types of protobuf.
const (
	wireVarint = 0
	wireFixed8 = 1
	wireBytes  = 2
	wireFixed4 = 5
)

// healthRequest is a HealthCheckRequest in its frame: the service is field 1,
// a string, which is left out when it is empty.
func healthRequest(service string) []byte {
	var message []byte
	if service != "" {
		message = append(message, 1<<3|wireBytes)
		message = binary.AppendUvarint(message, uint64(len(service)))
		message = append(message, service...)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	return append(frame, message...)
}

// healthResponse reads a framed HealthCheckResponse: the status is field 1, a
// varint, which is left out when it is 0. Other fields are passed over.
func healthResponse(frame []byte) (servingStatus, error) {
	malformed := errors.New("malformed answer of the health service")
	if len(frame) < frameHead || frame[0] != 0 {
		return 0, malformed
	}
	message := frame[frameHead:]
	if uint64(len(message)) != uint64(binary.BigEndian.Uint32(frame[1:])) {
		return 0, malformed
	}
	var status servingStatus
	for len(message) > 0 {
		tag, n := binary.Uvarint(message)
		if n <= 0 {
			return 0, malformed
		}
		message = message[n:]
		skip := uint64(0)
		switch tag & 7 {
		case wireVarint:
			value, n := binary.Uvarint(message)
			if n <= 0 {
				return 0, malformed
			}
			if tag>>3 == 1 {
				status = servingStatus(value)
			}
			skip = uint64(n)
		case wireFixed8:
			skip = 8
		case wireFixed4:
			skip = 4
		case wireBytes:
			length, n := binary.Uvarint(message)
			if n <= 0 || length > uint64(len(message)) {
				return 0, malformed
			}
			skip = uint64(n) + length
		default:
			return 0, malformed
		}
		if skip > uint64(len(message)) {
			return 0, malformed
		}
		message = message[skip:]
	}
	return status, nil
}
