package probe

// Counter turns single results into verdicts: the state of a probe changes
// when as many attempts in a row as a threshold says agree.
type Counter struct {
	SuccessThreshold, FailureThreshold int

	ok  bool
	run int // attempts in a row that had the result ok
}

// Add counts one result and tells whether it makes a verdict. Once it has, so
// does each further result of its kind.
func (c *Counter) Add(ok bool) bool {
	if c.run == 0 || c.ok != ok {
		c.ok, c.run = ok, 0
	}
	c.run++
	if ok {
		return c.run >= c.SuccessThreshold
	}
	return c.run >= c.FailureThreshold
}
