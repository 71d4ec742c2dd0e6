// A conversation that outlives its connection, and the server it began on.

import { ServerError } from './api.js'
import { PeerTransport, SocketTransport } from './transports.js'

const ATTEMPTS = 8
const STABLE = 5000 // ms; a connection that lasted so long was a good one
// Why a session ends for good; anything else is carried on in a new one, from the last frames that were seen.
const GOOD = {
  client: '',
  deleted: 'The conversation was ended by somebody else.',
  idle: 'The conversation ended, because nobody spoke for a long time.',
  session_too_long: 'The conversation has reached its longest time.',
}

export class Session {
  id = null
  generation = 0
  ended = false

  // on: {state(name), message(message), failed(ServerError), waiting(ServerError, seconds)}
  constructor(api, video, motion, on) {
    Object.assign(this, { api, video, motion, on })
  }

  // form: as Api.open takes it; kind: websocket or webrtc. Runs until it has ended; its last words, if any.
  async run(form, kind) {
    this.motion.forget()
    let attempt = 0
    while (!this.ended) {
      let error
      try {
        if (!this.id) await this.#open(form)
        if (this.ended) return this.end()
        const began = performance.now()
        this.transport = this.#transport(kind)
        await this.#attached(form)
        if (performance.now() - began > STABLE) attempt = 0
        error = new ServerError({ code: 'unreachable', message: 'The connection broke.', retryable: true })
      } catch (caught) {
        if (!(caught instanceof ServerError)) throw caught
        error = caught
        if (caught.code === 'not_found' || caught.code === 'closed') error.retryable = Boolean(this.id)
        this.id = null
      }
      if (this.ended) break
      if (!error.retryable || attempt >= ATTEMPTS) {
        this.on.failed(error)
        break
      }
      const wait = this.moved ? 0 : Math.max(error.retryAfter, Math.min(8, 0.25 * 2 ** attempt++))
      this.moved = false
      if (wait >= 0.5) this.on.waiting(error, wait)
      this.on.state(this.transport ? 'reconnecting' : 'opening')
      await new Promise((resolve) => {
        this.wake = resolve
        setTimeout(resolve, wait * 1000)
      })
    }
    this.player?.close()
    return this.last
  }

  async #open(form) {
    this.on.state(this.transport ? 'reconnecting' : 'opening')
    const motion = await this.motion.png()
    const session = await this.api.open(motion ? { ...form, motion, generation: this.generation } : form)
    this.id = session.id
  }

  #transport(kind) {
    if (kind === 'webrtc') return new PeerTransport(this.api, this.id, this.video)
    const transport = new SocketTransport(this.api, this.id, this.video, this.player)
    this.player = transport.player
    return transport
  }

  // Until the transport has ended, having begun.
  async #attached(form) {
    const { transport } = this
    let begun = false
    const over = new Promise((resolve, reject) => {
      transport.onend = () => (begun ? resolve() : reject(new ServerError({ code: 'closed', message: 'The session is lost.' })))
      transport.onmessage = (message) => {
        begun ||= message.type === 'session'
        this.generation = message.generation ?? this.generation
        if (message.type === 'error' && !begun) return reject(new ServerError(message))
        if (message.type === 'draining') this.#move(form)
        if (message.type === 'closed') {
          this.id = null
          this.last = GOOD[message.reason]
          this.ended ||= message.reason in GOOD
        }
        this.on.message(message)
      }
    })
    this.finish = transport.onend
    this.rate = 0
    try {
      await transport.open()
      await over
    } finally {
      transport.close()
    }
  }

  // The server is about to end: another one takes the conversation on.
  async #move(form) {
    const { transport, id } = this
    try {
      await this.#open(form)
    } catch {
      return this.on.state('live') // this one goes on while it can
    }
    this.moved = true
    this.on.state('reconnecting')
    if (this.transport === transport) this.finish()
    this.api.request('DELETE', `/v1/sessions/${id}`).catch(() => {})
  }

  say(samples, rate) {
    if (rate !== this.rate) this.transport.control({ type: 'audio_format', sample_rate: rate })
    this.rate = rate
    this.transport.send(samples)
  }

  control(type, fields) {
    this.transport?.control({ type, ...fields })
  }

  end() {
    this.ended = true
    this.finish?.()
    this.wake?.()
    if (this.id) this.api.request('DELETE', `/v1/sessions/${this.id}`).catch(() => {})
  }
}
