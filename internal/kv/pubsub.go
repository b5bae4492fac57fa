package kv

// pubsubCommands publish messages. They change nothing, and go through the log so that all listeners of all nodes see one
// order. The reply counts those of the node that was asked; in a script it is 0, because it must not enter the state.
var pubsubCommands = []Command{
	{Name: "publish", Arity: 3, Flags: Write | Fast, run: func(c call) { c.publish(false) }},
	{Name: "spublish", Arity: 3, Flags: Write | Fast, FirstKey: 1, LastKey: 1, Step: 1, run: func(c call) { c.publish(true) }},
}

func (c call) publish(sharded bool) {
	receivers := 0
	if c.m.host != nil {
		receivers = c.m.host.Published(c.args[1], c.args[2], sharded)
	}
	if c.script {
		receivers = 0
	}
	c.reply.Int(int64(receivers))
}
