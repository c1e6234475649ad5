package sandbox

import (
	"context"
	"io"
	"log/slog"
	"sync"

	"github.com/sirupsen/logrus"
)

var logrusOnce sync.Once

// redirectLogrus sends the warnings of libcontainer, which logs through a
// global, to the first Runtime's logger instead of standard error.
func redirectLogrus(log *slog.Logger) {
	logrusOnce.Do(func() {
		logrus.SetOutput(io.Discard)
		logrus.SetLevel(logrus.WarnLevel)
		logrus.AddHook(logrusHook{log})
	})
}

type logrusHook struct {
	log *slog.Logger
}

func (h logrusHook) Levels() []logrus.Level {
	return []logrus.Level{logrus.PanicLevel, logrus.FatalLevel, logrus.ErrorLevel, logrus.WarnLevel}
}

func (h logrusHook) Fire(e *logrus.Entry) error {
	h.log.Log(context.Background(), slog.LevelWarn, "libcontainer", "message", e.Message, "err", e.Data[logrus.ErrorKey])
	return nil
}
