// Two ways to a session that look alike: send(Int16Array), control(object), microphone(track or null), close();
// onmessage(message), onend(). After onend nothing more comes.

import { Player } from './player.js'

const SILENCE = 4000 // ms without a word of the server, which has one each second: it is lost, long before ICE says so

const encode = (message) => JSON.stringify(message)

// JSON and PCM16 out, JSON and fragmented MP4 in.
export class SocketTransport {
  takesMicrophone = false
  #media = Promise.resolve()
  #fresh = true

  constructor(api, id, video, player) {
    Object.assign(this, { api, id, video, onmessage: () => {}, onend: () => {} })
    this.player = player ?? new Player(video)
  }

  open() {
    this.socket = new WebSocket(this.api.streamUrl(this.id))
    this.socket.binaryType = 'arraybuffer'
    this.socket.onmessage = ({ data }) => {
      if (typeof data !== 'string') return void (this.#media = this.#media.then(() => this.player.append(data)))
      const message = JSON.parse(data)
      if (message.type === 'media_init') {
        const fresh = this.#fresh
        this.#fresh = false
        this.#media = this.#media.then(() => this.player.init(message.mime, fresh))
      }
      this.onmessage(message)
    }
    this.socket.onclose = () => this.onend()
  }

  #send(data) {
    if (this.socket.readyState === WebSocket.OPEN) this.socket.send(data)
  }

  control(message) {
    this.#send(encode(message))
  }

  send(samples) {
    this.#send(samples)
  }

  // Moments of the stream as the video element counts them.
  moment(time) {
    return time + this.player.offset
  }

  // Seconds that the newest frame waits in the player.
  get waiting() {
    return Math.max(0, this.player.end - this.video.currentTime)
  }

  silence(time) {
    this.player.skipTo(time)
  }

  close() {
    this.onend = () => {}
    this.socket.close()
  }
}

// Tracks both ways, and a data channel for what the socket's text messages say. Speech of files goes through it as well.
export class PeerTransport {
  takesMicrophone = true
  waiting = 0

  constructor(api, id, video) {
    Object.assign(this, { api, id, video, onmessage: () => {}, onend: () => {} })
  }

  async open() {
    this.peer = new RTCPeerConnection()
    this.peer.addTransceiver('video', { direction: 'recvonly' })
    this.audio = this.peer.addTransceiver('audio', { direction: 'sendrecv' })
    this.channel = this.peer.createDataChannel('control')
    this.channel.onmessage = ({ data }) => {
      this.heard = performance.now()
      this.onmessage(JSON.parse(data))
    }
    this.channel.onclose = () => this.#ended()
    const stream = new MediaStream()
    this.peer.ontrack = ({ track }) => {
      stream.addTrack(track)
      this.video.removeAttribute('src')
      this.video.srcObject = stream
      this.video.play().catch(() => {})
    }
    this.peer.onconnectionstatechange = () => {
      if (['failed', 'closed', 'disconnected'].includes(this.peer.connectionState)) this.#ended()
    }
    await this.peer.setLocalDescription(await this.peer.createOffer())
    await this.#gathered()
    const { sdp, type } = this.peer.localDescription
    const answer = await this.api.request('POST', `/v1/sessions/${this.id}/webrtc`, { sdp, type })
    if (this.peer.signalingState !== 'closed') await this.peer.setRemoteDescription(answer)
    this.timer = setInterval(() => this.#measure(), 1000)
  }

  // All candidates go with the offer; a second is enough for those of this machine.
  #gathered() {
    return new Promise((resolve) => {
      if (this.peer.iceGatheringState === 'complete') resolve()
      this.peer.addEventListener('icegatheringstatechange', () => this.peer.iceGatheringState === 'complete' && resolve())
      setTimeout(resolve, 1000)
    })
  }

  async #measure() {
    if (performance.now() - this.heard > SILENCE) return this.#ended()
    const found = [...(await this.peer.getStats()).values()].find(({ type, kind }) => type === 'inbound-rtp' && kind === 'video')
    if (found?.jitterBufferEmittedCount) this.waiting = found.jitterBufferDelay / found.jitterBufferEmittedCount
  }

  control(message) {
    if (this.channel.readyState === 'open') this.channel.send(encode(message))
  }

  send(samples) {
    if (this.channel.readyState === 'open') this.channel.send(samples)
  }

  microphone(track) {
    return this.audio.sender.replaceTrack(track)
  }

  moment() {
    return 0
  }

  silence() {}

  #ended() {
    const { onend } = this
    this.close()
    onend()
  }

  close() {
    this.onend = () => {}
    this.onmessage = () => {}
    clearInterval(this.timer)
    this.peer.close()
  }
}
