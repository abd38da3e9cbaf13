package process

import "github.com/mpegate/mpegate/deploy/process/snetd"

// isPeerSetting recognizes a settings file of the peer daemon given in place of ours.
func isPeerSetting(key string) bool { return snetd.Known(key) }
