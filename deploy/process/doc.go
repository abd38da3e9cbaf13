// Package process is the running mpegate process: its settings, how they are read, the start and stop of the
// parts in order, logging, health and metrics. Only this package knows every part.
package process
